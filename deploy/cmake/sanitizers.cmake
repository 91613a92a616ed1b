add_library(sluice_sanitizers INTERFACE)
if(SLUICE_SANITIZE STREQUAL "address")
  set(flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
elseif(SLUICE_SANITIZE STREQUAL "thread")
  set(flags -fsanitize=thread -fno-omit-frame-pointer)
elseif(NOT SLUICE_SANITIZE STREQUAL "none")
  message(FATAL_ERROR "SLUICE_SANITIZE=${SLUICE_SANITIZE}: use none, address or thread")
endif()
if(SLUICE_COVERAGE)
  list(APPEND flags --coverage)
endif()
if(SLUICE_FUZZ)
  list(APPEND flags -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
endif()
target_compile_options(sluice_sanitizers INTERFACE ${flags})
target_link_options(sluice_sanitizers INTERFACE ${flags})

# The packaged Abseil hides its locks from ThreadSanitizer; see the source.
if(SLUICE_SANITIZE STREQUAL "thread")
  add_library(sluice_tsan_absl OBJECT ${PROJECT_SOURCE_DIR}/tests/support/tsan_absl_mutex.cc)
  target_link_libraries(sluice_tsan_absl PRIVATE absl::synchronization absl::time)
  target_sources(sluice_sanitizers INTERFACE
    $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:$<TARGET_OBJECTS:sluice_tsan_absl>>)
  foreach(symbol Mutex4LockEv Mutex6UnlockEv MutexD1Ev Mutex5AwaitERKNS0_9ConditionE
                 Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)
    target_link_options(sluice_sanitizers INTERFACE -Wl,--wrap=_ZN4absl7debian35${symbol})
  endforeach()
  target_link_libraries(sluice_sanitizers INTERFACE absl::synchronization)
  target_link_options(sluice_sanitizers INTERFACE
    -Wl,--wrap=_ZN4absl7debian312Notification6NotifyEv
    -Wl,--wrap=_ZNK4absl7debian312Notification19WaitForNotificationEv)
endif()
