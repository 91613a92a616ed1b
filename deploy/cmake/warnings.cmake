add_library(sluice_warnings INTERFACE)
# Of C++: nvcc's own code for the host of a .cu file is not ours, and its options have other forms.
set(cxx_warnings -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Wold-style-cast -Wno-missing-field-initializers)
if(SLUICE_WERROR)
  list(APPEND cxx_warnings -Werror)
endif()
target_compile_options(sluice_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_warnings}>")
if(SLUICE_WITH_CUDA AND SLUICE_WERROR)
  target_compile_options(sluice_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # clang 14 has coroutines under another name than the one Asio 1.74 looks for.
  target_compile_definitions(sluice_warnings INTERFACE __cpp_impl_coroutine=201902L
    BOOST_ASIO_HAS_CO_AWAIT BOOST_ASIO_HAS_STD_COROUTINE)
  target_compile_options(sluice_warnings INTERFACE -Wno-builtin-macro-redefined -Wno-sign-conversion
                                                   -Wno-implicit-int-float-conversion)
endif()
