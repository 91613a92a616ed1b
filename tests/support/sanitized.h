// Whether a sanitizer watches this program: it is then ten times slower. Only for tests.
#pragma once

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLUICE_CLANG_SANITIZER
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SLUICE_CLANG_SANITIZER)
#define SLUICE_SANITIZED 1
#else
#define SLUICE_SANITIZED 0
#endif
