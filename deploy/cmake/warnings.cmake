add_library(sluice_warnings INTERFACE)
target_compile_options(sluice_warnings INTERFACE -Wall -Wextra -Wshadow -Wconversion
                                                 -Wnon-virtual-dtor -Wold-style-cast
                                                 -Wno-missing-field-initializers)
if(SLUICE_WERROR)
  target_compile_options(sluice_warnings INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # clang 14 has coroutines under another name than the one Asio 1.74 looks for.
  target_compile_definitions(sluice_warnings INTERFACE __cpp_impl_coroutine=201902L
    BOOST_ASIO_HAS_CO_AWAIT BOOST_ASIO_HAS_STD_COROUTINE)
  target_compile_options(sluice_warnings INTERFACE -Wno-builtin-macro-redefined -Wno-sign-conversion
                                                   -Wno-implicit-int-float-conversion)
endif()
