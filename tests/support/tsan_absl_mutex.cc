// Shows ThreadSanitizer the locks of the packaged Abseil, which was built without it: the linker
// sends every call of absl::Mutex and absl::Notification here (--wrap, in
// deploy/cmake/sanitizers.cmake), and each is passed on between the annotations that Abseil's own
// sources carry. Only in the `tsan` preset. `debian3` is Abseil's inline namespace in Debian 12;
// under another name nothing would be wrapped and every guarded access would be reported.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

void RealLock(void* mutex) asm("__real__ZN4absl7debian35Mutex4LockEv");
void RealUnlock(void* mutex) asm("__real__ZN4absl7debian35Mutex6UnlockEv");
void RealDestroy(void* mutex) asm("__real__ZN4absl7debian35MutexD1Ev");
void RealAwait(void* mutex, const absl::Condition& condition) asm(
    "__real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
bool RealAwaitWithTimeout(void* mutex, const absl::Condition& condition, absl::Duration timeout) asm(
    "__real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
void RealNotify(void* notification) asm("__real__ZN4absl7debian312Notification6NotifyEv");
void RealWait(const void* notification) asm(
    "__real__ZNK4absl7debian312Notification19WaitForNotificationEv");

void Lock(void* mutex) asm("__wrap__ZN4absl7debian35Mutex4LockEv");
void Lock(void* mutex) {
  __tsan_mutex_pre_lock(mutex, 0);
  RealLock(mutex);
  __tsan_mutex_post_lock(mutex, 0, 0);
}

void Unlock(void* mutex) asm("__wrap__ZN4absl7debian35Mutex6UnlockEv");
void Unlock(void* mutex) {
  __tsan_mutex_pre_unlock(mutex, 0);
  RealUnlock(mutex);
  __tsan_mutex_post_unlock(mutex, 0);
}

void Destroy(void* mutex) asm("__wrap__ZN4absl7debian35MutexD1Ev");
void Destroy(void* mutex) {
  __tsan_mutex_destroy(mutex, __tsan_mutex_linker_init);
  RealDestroy(mutex);
}

// A wait releases the lock and takes it again.
void Await(void* mutex, const absl::Condition& condition) asm(
    "__wrap__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
void Await(void* mutex, const absl::Condition& condition) {
  __tsan_mutex_pre_unlock(mutex, 0);
  __tsan_mutex_post_unlock(mutex, 0);
  __tsan_mutex_pre_lock(mutex, 0);
  RealAwait(mutex, condition);
  __tsan_mutex_post_lock(mutex, 0, 0);
}

bool AwaitWithTimeout(void* mutex, const absl::Condition& condition, absl::Duration timeout) asm(
    "__wrap__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
bool AwaitWithTimeout(void* mutex, const absl::Condition& condition, absl::Duration timeout) {
  __tsan_mutex_pre_unlock(mutex, 0);
  __tsan_mutex_post_unlock(mutex, 0);
  __tsan_mutex_pre_lock(mutex, 0);
  const bool result = RealAwaitWithTimeout(mutex, condition, timeout);
  __tsan_mutex_post_lock(mutex, 0, 0);
  return result;
}

void Notify(void* notification) asm("__wrap__ZN4absl7debian312Notification6NotifyEv");
void Notify(void* notification) {
  __tsan_release(notification);
  RealNotify(notification);
}

void WaitForNotification(void* notification) asm(
    "__wrap__ZNK4absl7debian312Notification19WaitForNotificationEv");
void WaitForNotification(void* notification) {
  RealWait(notification);
  __tsan_acquire(notification);
}
