// See shared_reads.h.

#include "mantaray/relay/shared_reads.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "mantaray/relay/proxy_call.h"

namespace mantaray::relay {

bool IsPoll(std::string_view path) { return path.ends_with("/GcsSubscriberPoll"); }

SharedReads::SharedReads(EventLoop* loop, Metrics* metrics, const Options& options, Begin begin)
    : loop_(loop),
      metrics_(metrics),
      options_(options),
      begin_(std::move(begin)),
      gate_(std::max<int64_t>(options.window_ms, 1), options.burst) {}

void SharedReads::WriteEnded(const std::string& peer) {
  const auto found = writes_.find(peer);
  if (--found->second == 0) {
    writes_.erase(found);
  }
}

void SharedReads::Join(const std::string& key, ProxyCall* call) {
  metrics_->ReadCame(call->shared_method());
  const int64_t now_ms = EventLoop::NowMs();
  gate_.Join(key, call, now_ms);
  ScheduleNext(now_ms);
}

void SharedReads::Leave(ProxyCall* call, ReadFlight* flight) {
  if (flight != nullptr) {
    flight->Leave(call);
  } else {
    gate_.Leave(call);
  }
}

void SharedReads::TakeOff(const std::vector<ProxyCall*>& calls) {
  metrics_->ReadLeft(calls.front()->shared_method());
  ++flights_;
  ReadFlight::Question question = calls.front()->Question();
  for (const ProxyCall* call : calls) {
    // Each call ends at its own deadline. The flight goes on for those that wait for longer.
    question.deadline = gpr_time_max(question.deadline, call->deadline());
  }
  const auto left = std::chrono::steady_clock::now();
  ReadFlight* flight = begin_(calls.front()->peer(), question, {calls.begin(), calls.end()}, [this, left] {
    --flights_;
    gate_.Landed(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - left).count());
  });
  for (ProxyCall* call : calls) {
    call->TakeOff(flight);
  }
}

void SharedReads::ScheduleNext(int64_t now_ms) {
  const auto next_ms = gate_.NextMs();
  if (!next_ms.has_value()) {
    return;
  }
  if (*next_ms <= now_ms) {
    // Not before everything that has arrived by now was looked at: it may ask the same.
    if (!deferred_) {
      deferred_ = true;
      loop_->Defer([this] {
        deferred_ = false;
        TakeOffDue();
      });
    }
  } else if (!scheduled_) {
    scheduled_ = true;
    loop_->Schedule(*next_ms - now_ms, [this] {
      scheduled_ = false;
      TakeOffDue();
    });
  }
}

void SharedReads::TakeOffDue() {
  const int64_t now_ms = EventLoop::NowMs();
  for (const auto& calls : gate_.Due(now_ms)) {
    TakeOff(calls);
  }
  ScheduleNext(now_ms);
}

}  // namespace mantaray::relay
