// See event_loop.h.

#include "mantaray/relay/event_loop.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <pthread.h>

#include <algorithm>

#include "mantaray/common/steady_clock.h"

namespace mantaray::relay {
namespace {

constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.due_ms != b.due_ms ? a.due_ms > b.due_ms : a.id > b.id;
};

}  // namespace

EventLoop::EventLoop(std::unique_ptr<grpc::CompletionQueue> queue, std::string thread_name)
    : queue_(std::move(queue)),
      thread_name_(std::move(thread_name)),
      alarm_(std::make_unique<grpc::Alarm>()),
      wake_event_(this, &EventLoop::OnWake) {}

EventLoop::~EventLoop() = default;

std::unique_ptr<grpc::CompletionQueue> EventLoop::QueueThatDoesNotPoll() {
  const grpc_completion_queue_attributes attributes{GRPC_CQ_CURRENT_VERSION, GRPC_CQ_NEXT, GRPC_CQ_NON_POLLING,
                                                    nullptr};
  const grpc_completion_queue_factory* factory = grpc_completion_queue_factory_lookup(&attributes);
  return std::make_unique<grpc::CompletionQueue>(grpc_completion_queue_create(factory, &attributes, nullptr));
}

void EventLoop::Start() {
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), thread_name_.substr(0, 15).c_str());
}

void EventLoop::Stop() {
  if (!thread_.joinable()) {
    return;
  }
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    alarm_->Cancel();
  }
  queue_->Shutdown();
  thread_.join();
}

void EventLoop::Post(std::function<void()> function) {
  MutexLock lock(&mutex_);
  if (stopping_) {
    return;
  }
  posted_.push_back(std::move(function));
  if (!woken_) {
    woken_ = true;
    // Past, so that the event is there at once. "Now" is rounded up to the next millisecond, for which a thread of
    // gRPC's has to sleep and wake up.
    alarm_->Set(queue_.get(), gpr_inf_past(GPR_CLOCK_MONOTONIC), &wake_event_);
  }
}

EventLoop::TimerId EventLoop::Schedule(int64_t delay_ms, std::function<void()> function) {
  timers_.push_back({NowMs() + delay_ms, ++last_timer_, std::move(function)});
  std::push_heap(timers_.begin(), timers_.end(), kLater);
  return last_timer_;
}

void EventLoop::Cancel(TimerId id) {
  const auto found = std::find_if(timers_.begin(), timers_.end(), [id](const Timer& t) { return t.id == id; });
  if (found != timers_.end()) {
    timers_.erase(found);
    std::make_heap(timers_.begin(), timers_.end(), kLater);
  }
}

int64_t EventLoop::NowMs() { return SteadyNowMs(); }

void EventLoop::Run() {
  int events = 0;
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_->AsyncNext(&tag, &ok, NextDeadline());
    if (next == grpc::CompletionQueue::SHUTDOWN) {
      return;
    }
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      static_cast<Event*>(tag)->OnEvent(ok);
    }
    if (next == grpc::CompletionQueue::TIMEOUT || ++events >= kMaxEventsBeforeDeferred) {
      events = 0;
      RunTimers();
      RunDeferred();
    }
  }
}

gpr_timespec EventLoop::NextDeadline() const {
  if (!deferred_.empty()) {
    return gpr_inf_past(GPR_CLOCK_MONOTONIC);
  }
  if (timers_.empty()) {
    return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  }
  const int64_t delay_ms = std::max<int64_t>(0, timers_.front().due_ms - NowMs());
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(delay_ms, GPR_TIMESPAN));
}

void EventLoop::RunDeferred() {
  // What they defer in turn is for the next time.
  std::vector<std::function<void()>> functions;
  functions.swap(deferred_);
  for (const auto& function : functions) {
    function();
  }
}

void EventLoop::RunTimers() {
  const int64_t now_ms = timers_.empty() ? 0 : NowMs();
  while (!timers_.empty() && timers_.front().due_ms <= now_ms) {
    std::pop_heap(timers_.begin(), timers_.end(), kLater);
    const auto function = std::move(timers_.back().function);
    timers_.pop_back();
    function();
  }
}

void EventLoop::OnWake(bool /*ok*/) { RunPosted(); }

void EventLoop::RunPosted() {
  std::vector<std::function<void()>> functions;
  {
    MutexLock lock(&mutex_);
    functions.swap(posted_);
    woken_ = false;
    if (!stopping_) {
      // An alarm that has fired may not be set again.
      alarm_ = std::make_unique<grpc::Alarm>();
    }
  }
  for (const auto& function : functions) {
    function();
  }
}

}  // namespace mantaray::relay
