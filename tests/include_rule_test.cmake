# Fails on an #include that the dependency table of ARCHITECTURE.md forbids, or on a third-party header outside
# the few files that may see it. First checks itself: a planted violation of each kind must be found.
#   cmake [-DROOT=directory] -P tests/include_rule_test.cmake
cmake_minimum_required(VERSION 3.25)

set(vocabulary "engine/(status_macros|json_reader|request|request_error|metrics|engine_config|clock|log)\\.h")
set(kernel_views "kernels/(tensor_view|dtype|buffer|kv_span|packed_matrix|check|host_memory|op_kinds)\\.h")
set(kernel_ops "kernels/(backend|backend_factory|op_profile|step_program)\\.h|${kernel_views}")
set(spec "engine/model/(model_spec[a-z_]*|block_spec|sparse_limits)\\.h")

# One row: files that match the first regex may include project headers that match the second. A file must have
# a row; the first that matches counts.
set(rules)
function(allow from to)
  list(APPEND rules "${from}=>${to}")
  set(rules "${rules}" PARENT_SCOPE)
endfunction()
allow("kernels/reference/.*" "kernels/[a-z0-9_]+\\.h|kernels/reference/.*")
allow("kernels/cpu/.*" "kernels/[a-z0-9_]+\\.h|kernels/cpu/.*")
allow("kernels/cuda/.*" "kernels/[a-z0-9_]+\\.h|kernels/cuda/.*")
allow("kernels/backend_factory\\.cc" "kernels/.*")
allow("kernels/[a-z0-9_]+\\.(h|cc)" "kernels/[a-z0-9_]+\\.h")
allow("engine/(text|weights)/.*" "engine/(text|weights)/.*|${vocabulary}|${kernel_views}")
allow("engine/sampling/.*" "engine/sampling/.*|${vocabulary}|${kernel_views}")
allow("engine/architectures/.*" "engine/(architectures|weights)/.*|${spec}|${vocabulary}|${kernel_views}")
allow("engine/model/model_spec.*" "${spec}|${vocabulary}|${kernel_ops}")
allow("engine/cache/.*" "engine/cache/.*|${vocabulary}|${kernel_ops}")
allow("engine/scheduling/.*" "engine/scheduling/.*|engine/cache/page_budget\\.h|${vocabulary}|${kernel_views}")
allow("engine/blocks/.*"
  "engine/blocks/.*|${spec}|engine/(cache|weights)/.*|${vocabulary}|${kernel_ops}")
allow("engine/model/.*" "engine/(model|blocks|cache|weights)/.*|${vocabulary}|${kernel_ops}")
allow("engine/(status_macros|json_reader|request|request_error|metrics|engine_config|clock|log)\\..*"
  "${vocabulary}|${kernel_views}")
allow("engine/engine_client\\..*" "engine/text/(tokenizer|chat_template)\\.h|${vocabulary}")
allow("engine/[a-z_]+\\.(h|cc)" "engine/.*|${kernel_ops}")
set(engine_public
  "${vocabulary}|engine/(engine|engine_thread|engine_client|version)\\.h|engine/text/(tokenizer|chat_template)\\.h")
# The measuring commands divide by what the machine can do, and time ops.
allow("server/commands/bench(_machine|_profile|_report)?\\..*"
  "server/.*|${engine_public}|engine/model_runner\\.h|kernels/(machine_limits|op_profile)\\.h")
# Next-token distributions of a whole text, which the engine gives nobody.
allow("server/commands/bench_quality\\.cc" "server/.*|${engine_public}|engine/model_runner\\.h")
# The offline commands look at a checkpoint without starting an engine.
allow("server/commands/.*|server/[a-z_]*(inspect|generate|bench)[a-z_]*\\..*"
  "server/.*|${engine_public}|${spec}|engine/model/parameter_count\\.h|engine/model_files\\.h")
# What the program is made of.
allow("server/main\\.cc" "server/.*|${engine_public}|kernels/cuda/use_cuda\\.h")
allow("server/grpc/.*" "server/.*|sluice/v1/.*|proto/.*|${engine_public}")
# Numbers to pictures: of the server's own files only its neighbours.
allow("server/plot/.*" "server/plot/.*|${vocabulary}")
allow("server/.*" "server/.*|sluice/v1/.*|proto/.*|${engine_public}")
allow("proto/.*" "proto/.*|sluice/v1/.*")

# Third-party headers that only some files may see.
set(third_party)
function(only from header)
  list(APPEND third_party "${header}=>${from}")
  set(third_party "${third_party}" PARENT_SCOPE)
endfunction()
only("nowhere" "regex")
only("kernels/cpu/[a-z_]*onednn[a-z_]*\\..*" "dnnl.*|oneapi/dnnl/.*")
only("kernels/cuda/.*" "cuda.*|cublas.*|cudnn.*|nccl.*")
only("server/.*" "boost/.*")
only("server/.*" "grpc.*|google/.*")
only("server/metrics/.*" "prometheus/.*")
only("engine/log\\..*" "spdlog/.*")
only("engine/text/.*" "pcre2.*|utf8proc.*")
# libsentencepiece exports a protobuf of its own, which breaks that of gRPC in one process: tests only.
only("nowhere" "sentencepiece.*")

function(project_include_allowed path header result)
  foreach(rule IN LISTS rules)
    string(REGEX MATCH "^(.*)=>(.*)$" unused "${rule}")
    set(from "${CMAKE_MATCH_1}")
    set(to "${CMAKE_MATCH_2}")
    if(path MATCHES "^(${from})$")
      if(header MATCHES "^(${to})$")
        set(${result} TRUE PARENT_SCOPE)
      else()
        set(${result} FALSE PARENT_SCOPE)
      endif()
      return()
    endif()
  endforeach()
  set(${result} FALSE PARENT_SCOPE)
endfunction()

function(third_party_include_allowed path header result)
  set(${result} TRUE PARENT_SCOPE)
  foreach(rule IN LISTS third_party)
    string(REGEX MATCH "^(.*)=>(.*)$" unused "${rule}")
    set(guarded "${CMAKE_MATCH_1}")
    set(from "${CMAKE_MATCH_2}")
    if(header MATCHES "^(${guarded})$" AND NOT path MATCHES "^(${from})$")
      set(${result} FALSE PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# Sets `result` to the list of forbidden includes below `root`, one text each, and `count` to the files read.
function(find_violations root result count)
  set(violations)
  file(GLOB_RECURSE paths RELATIVE "${root}" "${root}/kernels/*" "${root}/engine/*" "${root}/server/*"
    "${root}/proto/*")
  list(FILTER paths INCLUDE REGEX "\\.(h|cc|cu|cuh|inc)$")
  foreach(path IN LISTS paths)
    file(STRINGS "${root}/${path}" lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
    foreach(line IN LISTS lines)
      string(REGEX MATCH "[<\"]([^>\"]+)[>\"]" unused "${line}")
      set(header "${CMAKE_MATCH_1}")
      if(header MATCHES "^(kernels|engine|server|proto|tests|sluice)/")
        project_include_allowed("${path}" "${header}" allowed)
      elseif(header MATCHES "^\\.\\.?/|^[a-z_]+\\.h$" AND line MATCHES "\"")
        set(allowed FALSE)  # includes are written from the root
        if(header MATCHES "^(utf8proc|pcre2|dnnl|sentencepiece_processor)\\.h$")
          third_party_include_allowed("${path}" "${header}" allowed)
        endif()
      else()
        third_party_include_allowed("${path}" "${header}" allowed)
      endif()
      if(NOT allowed)
        list(APPEND violations "${path} includes ${header}")
      endif()
    endforeach()
  endforeach()
  list(LENGTH paths number)
  set(${result} "${violations}" PARENT_SCOPE)
  set(${count} ${number} PARENT_SCOPE)
endfunction()

# Self-test: each pair is a file and an include it may not have, or (second list) may have.
function(self_test)
  set(forbidden
    "kernels/cpu/gemm.cc|engine/log.h" "kernels/cpu/gemm.cc|kernels/reference/reference_math.h"
    "engine/engine.cc|server/http/http_server.h" "engine/engine.cc|kernels/cpu/gemm.h"
    "engine/blocks/attention.cc|engine/model/model.h" "engine/blocks/norm.cc|engine/scheduling/scheduler.h"
    "engine/blocks/norm.cc|engine/architectures/architectures.h"
    "engine/scheduling/scheduler.cc|engine/cache/kv_cache.h" "engine/architectures/llama.cc|engine/model/model.h"
    "engine/text/bpe.cc|engine/model/model.h" "engine/sampling/sampler.cc|kernels/backend.h"
    "engine/request.h|engine/engine.h" "engine/weights/a.cc|proto/sluice/v1/generation.pb.h"
    "server/http/sse.cc|kernels/backend.h" "server/http/sse.cc|engine/model/model.h"
    "server/http/sse.cc|engine/scheduling/scheduler.h" "server/http/sse.cc|engine/weights/weight_store.h"
    "server/http/sse.cc|prometheus/registry.h" "engine/model/model.cc|grpcpp/grpcpp.h"
    "engine/text/bpe.cc|regex" "kernels/cpu/gemm.cc|dnnl.hpp" "engine/text/bpe.cc|bpe.h"
    "engine/model/model.cc|boost/asio.hpp" "engine/model/model.cc|../text/bpe.h"
    "unknown_place/x.h|engine/engine.h")
  set(permitted
    "kernels/cpu/gemm.cc|kernels/check.h" "kernels/backend_factory.cc|kernels/cpu/cpu_backend.h"
    "kernels/cpu/gemm_onednn.cc|dnnl.hpp" "engine/engine.cc|engine/scheduling/scheduler.h"
    "engine/model/model.cc|engine/blocks/block.h" "engine/blocks/norm.cc|engine/model/model_spec.h"
    "engine/scheduling/scheduler.cc|engine/cache/page_budget.h" "server/http/sse.cc|engine/engine_client.h"
    "server/metrics/exporter.cc|prometheus/registry.h" "engine/metrics_collector.cc|engine/blocks/forward_stats.h"
    "server/main.cc|engine/engine_thread.h"
    "engine/text/bpe.cc|vector")
  foreach(kind forbidden permitted)
    foreach(pair IN LISTS ${kind})
      string(REPLACE "|" ";" pair "${pair}")
      list(GET pair 0 path)
      list(GET pair 1 header)
      string(RANDOM LENGTH 12 name)
      set(root "$ENV{TMPDIR}")
      if(NOT root)
        set(root "/tmp")
      endif()
      set(root "${root}/include_rule_${name}")
      if(path MATCHES "^unknown_place/")
        set(path "server_like/x.h")
        project_include_allowed("${path}" "${header}" allowed)
        set(found "")
        if(NOT allowed)
          set(found "${path} includes ${header}")
        endif()
      else()
        if(header MATCHES "/|^bpe\\.h$")
          file(WRITE "${root}/${path}" "#pragma once\n\n#include \"${header}\"\n")
        else()
          file(WRITE "${root}/${path}" "#include <${header}>\n")
        endif()
        find_violations("${root}" found unused_count)
        file(REMOVE_RECURSE "${root}")
      endif()
      if(kind STREQUAL "forbidden" AND NOT found STREQUAL "${path} includes ${header}")
        message(FATAL_ERROR "self-test: ${path} may not include ${header}, but it was not found")
      elseif(kind STREQUAL "permitted" AND found)
        message(FATAL_ERROR "self-test: ${path} may include ${header}, but it was refused")
      endif()
    endforeach()
  endforeach()
endfunction()

self_test()
if(NOT DEFINED ROOT)
  get_filename_component(ROOT "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
endif()
find_violations("${ROOT}" violations number)
if(violations)
  list(JOIN violations "\n  " text)
  message(FATAL_ERROR "includes that ARCHITECTURE.md forbids:\n  ${text}")
endif()
if(number LESS 10)
  message(FATAL_ERROR "only ${number} sources found below ${ROOT}: wrong directory?")
endif()
message(STATUS "include rule: ${number} files, no forbidden include")
