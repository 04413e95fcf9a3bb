// The helper thread.

#include "mantaray/spill/posix_parallel.h"

namespace mantaray::spill {

HelperThread::~HelperThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void HelperThread::RunBoth(const std::function<void()>& first, const std::function<void()>& second) {
  const std::unique_lock use(in_use_, std::try_to_lock);
  if (!use.owns_lock()) {
    first();
    second();
    return;
  }
  if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
  {
    const std::lock_guard lock(mutex_);
    task_ = &second;
  }
  changed_.notify_all();
  first();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return task_ == nullptr; });
}

void HelperThread::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || task_ != nullptr; });
    if (stop_) return;
    const std::function<void()>* task = task_;
    lock.unlock();
    (*task)();
    lock.lock();
    task_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace mantaray::spill
