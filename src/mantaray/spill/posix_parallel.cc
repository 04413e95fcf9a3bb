// The two threads.

#include "mantaray/spill/posix_parallel.h"

#include <chrono>
#include <system_error>
#include <utility>

namespace mantaray::spill {
namespace {

// Waking up from a sleep takes about as long as what is usually left to wait for.
constexpr std::chrono::microseconds kSpin{50};

}  // namespace

HelperThreads::~HelperThreads() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  queued_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (background_.joinable()) background_.join();
}

// Returns whether the thread runs; it is started if need be.
bool HelperThreads::Run(std::thread* thread, std::function<void()> loop) {
  if (thread->joinable()) return true;
  try {
    *thread = spawn_(std::move(loop));
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void HelperThreads::RunBoth(const std::function<void()>& first, const std::function<void()>& second) {
  const std::unique_lock use(in_use_, std::try_to_lock);
  if (!use.owns_lock() || !Run(&thread_, [this] { Loop(); })) {
    first();
    second();
    return;
  }
  done_.store(false, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    task_ = &second;
  }
  changed_.notify_all();
  first();
  std::unique_lock lock(mutex_);
  if (task_ != nullptr) {  // not begun yet: sooner done here than there
    task_ = nullptr;
    lock.unlock();
    second();
    return;
  }
  lock.unlock();
  const auto sleep_at = std::chrono::steady_clock::now() + kSpin;
  while (!done_.load(std::memory_order_acquire) && std::chrono::steady_clock::now() < sleep_at) {
  }
  lock.lock();
  changed_.wait(lock, [this] { return done_.load(std::memory_order_relaxed); });
}

void HelperThreads::Start(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (Run(&background_, [this] { BackgroundLoop(); })) queue_.push_back(std::exchange(task, nullptr));
  }
  queued_.notify_one();
  if (task != nullptr) task();
}

void HelperThreads::BackgroundLoop() {
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

void HelperThreads::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || task_ != nullptr; });
    if (stop_) return;
    const std::function<void()>* task = std::exchange(task_, nullptr);
    lock.unlock();
    (*task)();
    lock.lock();
    done_.store(true, std::memory_order_release);
    changed_.notify_all();
  }
}

}  // namespace mantaray::spill
