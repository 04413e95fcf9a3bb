// One thread, one gRPC completion queue: everything of a proxied call, or of the sync streams, happens on one such
// thread, so that what belongs to it needs no lock.
//
// Work that is better done together is deferred until the queue has run dry: what arrived as a burst (a message and the
// end of its call) then leaves as one write. Deferred work never waits for anything outside and is bounded in delay,
// since after kMaxEventsBeforeDeferred events it runs even though the queue has more.
//
// Only Post and Stop may be called from other threads.
//
// Of several loops in a program one should poll. gRPC hands out what arrives on any connection to whichever thread
// polls at that moment, and if that is not the one it is meant for, that one has to be woken. Two threads that poll
// wake each other for almost every event: a proxied call then takes twice the processor time and four times the
// switches.

#ifndef MANTARAY_RELAY_EVENT_LOOP_H_
#define MANTARAY_RELAY_EVENT_LOOP_H_

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "mantaray/common/mutex.h"

namespace mantaray::relay {

// What is handed to gRPC as the tag of an operation.
class Event {
 public:
  virtual ~Event() = default;
  // The operation is over; `ok` as gRPC defines it for that operation.
  virtual void OnEvent(bool ok) = 0;
};

// An event that calls a method of its owner, which must outlive the operation.
template <typename Owner>
class MethodEvent final : public Event {
 public:
  MethodEvent(Owner* owner, void (Owner::*method)(bool ok)) : owner_(owner), method_(method) {}
  void OnEvent(bool ok) override { (owner_->*method_)(ok); }

 private:
  Owner* owner_;
  void (Owner::*method_)(bool ok);
};

class EventLoop {
 public:
  using TimerId = uint64_t;

  EventLoop(std::unique_ptr<grpc::CompletionQueue> queue, std::string thread_name);
  // The loop must have stopped.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // A queue whose thread sleeps until something is put into it. Another one of the program has to poll.
  static std::unique_ptr<grpc::CompletionQueue> QueueThatDoesNotPoll();

  grpc::CompletionQueue* queue() { return queue_.get(); }

  void Start();
  // Shuts the queue down and waits until all its events have been delivered. Every operation must be bound to end.
  void Stop();

  // Runs the function on the loop's thread, soon. Any thread.
  void Post(std::function<void()> function);
  // Runs it on the loop's thread when the queue has run dry. The loop's thread only.
  void Defer(std::function<void()> function) { deferred_.push_back(std::move(function)); }
  // Runs it after so many milliseconds. The loop's thread only.
  TimerId Schedule(int64_t delay_ms, std::function<void()> function);
  // Forgets a timer; one that has run, or 0, is fine. The loop's thread only.
  void Cancel(TimerId id);

  // Milliseconds of the clock by which timers run.
  static int64_t NowMs();

 private:
  struct Timer {
    int64_t due_ms;
    TimerId id;
    std::function<void()> function;
  };
  static constexpr int kMaxEventsBeforeDeferred = 64;

  void Run();
  void RunDeferred();
  void RunTimers();
  void RunPosted();
  gpr_timespec NextDeadline() const;

  std::unique_ptr<grpc::CompletionQueue> queue_;
  std::string thread_name_;
  std::thread thread_;
  std::vector<std::function<void()>> deferred_;
  std::vector<Timer> timers_;  // a heap, the next one first
  TimerId last_timer_ = 0;

  Mutex mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  MethodEvent<EventLoop> wake_event_;

  void OnWake(bool ok);
};

// An event that comes to one loop and calls a method of its owner on another. Of calls that a loop makes which does not
// poll: a client's call needs a queue that does.
template <typename Owner>
class PostedEvent final : public Event {
 public:
  PostedEvent(EventLoop* loop, Owner* owner, void (Owner::*method)(bool ok))
      : loop_(loop), owner_(owner), method_(method) {}
  void OnEvent(bool ok) override {
    loop_->Post([owner = owner_, method = method_, ok] { (owner->*method)(ok); });
  }

 private:
  EventLoop* loop_;
  Owner* owner_;
  void (Owner::*method_)(bool ok);
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_EVENT_LOOP_H_
