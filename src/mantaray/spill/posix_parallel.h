// Parallel on two threads, each started at first use: one helps a caller that waits, one works in the background.
//
// Survives: a thread that cannot be created (a limit of processes or memory). The caller then does the work itself.

#ifndef MANTARAY_SPILL_POSIX_PARALLEL_H_
#define MANTARAY_SPILL_POSIX_PARALLEL_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "mantaray/common/parallel.h"

namespace mantaray::spill {

class HelperThreads : public Parallel {
 public:
  using Spawn = std::function<std::thread(std::function<void()>)>;

  // `spawn` makes the threads; it may throw std::system_error.
  explicit HelperThreads(Spawn spawn = [](const std::function<void()>& run) { return std::thread(run); })
      : spawn_(std::move(spawn)) {}
  HelperThreads(const HelperThreads&) = delete;
  HelperThreads& operator=(const HelperThreads&) = delete;
  ~HelperThreads() override;

  // A second caller at the same time finds the helper busy and runs both by itself.
  void RunBoth(const std::function<void()>& first, const std::function<void()>& second) override;
  void Start(std::function<void()> task) override;

 private:
  bool Run(std::thread* thread, std::function<void()> loop);
  void Loop();
  void BackgroundLoop();

  const Spawn spawn_;
  std::mutex in_use_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;  // guarded by mutex_; null once somebody has begun it
  std::atomic<bool> done_ = false;
  bool stop_ = false;                        // guarded by mutex_
  std::thread thread_;                       // guarded by in_use_
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  std::condition_variable queued_;
  std::thread background_;  // guarded by mutex_ until it stops
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_PARALLEL_H_
