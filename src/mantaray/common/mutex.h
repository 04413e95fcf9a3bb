// A mutex that clang's thread-safety analysis and ThreadSanitizer both understand.
//
// absl::Mutex is annotated too, but the distribution's Abseil is not compiled with TSan. TSan then does not see its
// locks, and reports races that do not exist. std::mutex is a pthread mutex, which TSan intercepts.

#ifndef MANTARAY_COMMON_MUTEX_H_
#define MANTARAY_COMMON_MUTEX_H_

#include <mutex>

#include "absl/base/thread_annotations.h"

namespace mantaray {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* mutex_;
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_MUTEX_H_
