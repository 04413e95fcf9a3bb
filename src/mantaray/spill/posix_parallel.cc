// The two threads.

#include "mantaray/spill/posix_parallel.h"

namespace mantaray::spill {

HelperThread::~HelperThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  queued_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (background_.joinable()) background_.join();
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

void HelperThread::Start(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
    if (!background_.joinable()) background_ = std::thread([this] { BackgroundLoop(); });
  }
  queued_.notify_one();
}

void HelperThread::BackgroundLoop() {
  std::unique_lock lock(mutex_);
  while (true) {
    queued_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;  // what was started is finished first
    const std::function<void()> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
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
