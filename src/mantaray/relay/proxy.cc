// See proxy.h.

#include "mantaray/relay/proxy.h"

#include <functional>
#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/memory_guard.h"
#include "mantaray/relay/proxy_call.h"

namespace mantaray::relay {
namespace {

// Calls waited for at once; a burst of more queues up inside gRPC.
constexpr int kAccepting = 256;

}  // namespace

Proxy::Proxy(EventLoop* loop, grpc::ServerCompletionQueue* queue, std::vector<std::shared_ptr<grpc::Channel>> channels,
             std::string relay_id, const Limits& limits, Metrics* metrics)
    : loop_(loop),
      queue_(queue),
      relay_id_(std::move(relay_id)),
      limits_(limits),
      metrics_(metrics),
      released_([this] { OnReleased(); }),
      packages_([this] { return metrics_->held_bytes() < limits_.package_bytes; }),
      reads_(loop, metrics, limits.reads, [this](const auto& peer, const auto& question, auto passengers, auto ended) {
        return ReadFlight::Begin(
            StubFor(peer), loop_->queue(), question, std::move(passengers),
            [this](const grpc::ByteBuffer& message) { return Hold(message); }, std::move(ended));
      }) {
  for (auto& channel : channels) {
    stubs_.push_back(std::make_unique<grpc::GenericStub>(std::move(channel)));
  }
}

Proxy::~Proxy() = default;

void Proxy::Start() {
  for (int i = 0; i < kAccepting; ++i) {
    AcceptOne();
  }
  if (limits_.memory_bytes > 0) {
    LookAtMemory(kLookAtMemoryMs);
  }
}

void Proxy::Drain(int64_t delay_ms) {
  loop_->Post([this, delay_ms] {
    serving_ = false;
    loop_->Schedule(delay_ms, [this] {
      // Aborting one may remove it.
      const std::vector<ProxyCall*> calls(calls_.begin(), calls_.end());
      for (ProxyCall* call : calls) {
        call->Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
      }
    });
  });
}

void Proxy::OnReleased() {
  if (packages_.waits() && !resume_deferred_) {
    resume_deferred_ = true;
    loop_->Defer([this] {
      resume_deferred_ = false;
      packages_.Resume();
    });
  }
}

void Proxy::WatchRoom() {
  if (!packages_.waits() || room_timer_ != 0) {
    return;
  }
  room_timer_ = loop_->Schedule(kWaitForRoomMs, [this] {
    room_timer_ = 0;
    packages_.Resume(/*anyhow=*/true);
    WatchRoom();
  });
}

void Proxy::LookAtMemory(int64_t delay_ms) {
  loop_->Schedule(delay_ms, [this] {
    if (HasTooMuchMemory()) {
      EndBulkCalls();
      // Calls that were ended have to give back their memory before it is judged again.
      LookAtMemory(kLookAgainMs);
      return;
    }
    if (std::exchange(refuses_, false)) {
      LogInfo("there is memory again: new calls are taken", {{"calls", std::to_string(calls_.size())}});
    }
    LookAtMemory(ResidentBytes() > limits_.memory_bytes / 2 ? kLookOftenMs : kLookAtMemoryMs);
  });
}

bool Proxy::HasTooMuchMemory() {
  if (ResidentBytes() <= limits_.memory_bytes) {
    return false;
  }
  return EventLoop::NowMs() < trim_due_ms_ || HasTooMuchAfterTrim();
}

bool Proxy::HasTooMuchAfterTrim() {
  // The allocator keeps what was freed between blocks that are in use. Giving it back takes milliseconds, on the thread
  // that carries all calls.
  TrimMemory();
  trim_due_ms_ = EventLoop::NowMs() + kTrimMs;
  return ResidentBytes() > limits_.memory_bytes;
}

void Proxy::EndBulkCalls() {
  const int64_t now_ms = EventLoop::NowMs();
  std::vector<BulkCall<ProxyCall*>> bulk;
  for (ProxyCall* call : calls_) {
    if (const auto one = call->Bulk(now_ms); one.has_value()) {
      bulk.push_back(*one);
    }
  }
  if (bulk.empty() && !refuses_) {
    // Calls that were ended a moment ago have freed their memory. Nobody is to be refused because the allocator keeps
    // it.
    if (!HasTooMuchAfterTrim()) {
      return;
    }
    LogWarning("memory is used up: new calls are refused until there is room",
               {{"calls", std::to_string(calls_.size())}, {"limit_bytes", std::to_string(limits_.memory_bytes)}});
  }
  refuses_ = bulk.empty();
  for (ProxyCall* call : CallsToEnd(std::move(bulk), now_ms)) {
    call->EndForMemory();
  }
}

void Proxy::AcceptOne() { (new ProxyCall(this))->Accept(); }

HeldMessage Proxy::Hold(const grpc::ByteBuffer& message) {
  return {message, std::make_shared<HeldBytes>(message.Length(), metrics_, &released_)};
}

grpc::GenericStub* Proxy::StubFor(const std::string& peer) {
  return stubs_[std::hash<std::string>()(peer) % stubs_.size()].get();
}

}  // namespace mantaray::relay
