// Messages that a proxy holds, and how many bytes they are. All of it on one thread.

#ifndef MANTARAY_RELAY_HELD_BYTES_H_
#define MANTARAY_RELAY_HELD_BYTES_H_

#include <grpcpp/support/byte_buffer.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "mantaray/relay/metrics.h"

namespace mantaray::relay {

// Counts the bytes of a message for as long as it is held. Copies of a message share its bytes, and its count.
class HeldBytes {
 public:
  // Args: `released` is called after the count has gone down.
  HeldBytes(size_t bytes, Metrics* metrics, const std::function<void()>* released)
      : bytes_(static_cast<int64_t>(bytes)), metrics_(metrics), released_(released) {
    metrics_->AddHeldBytes(bytes_);
  }
  ~HeldBytes() {
    metrics_->AddHeldBytes(-bytes_);
    (*released_)();
  }
  HeldBytes(const HeldBytes&) = delete;
  HeldBytes& operator=(const HeldBytes&) = delete;

 private:
  const int64_t bytes_;
  Metrics* metrics_;
  const std::function<void()>* released_;
};

struct HeldMessage {
  grpc::ByteBuffer bytes;
  std::shared_ptr<HeldBytes> held;

  void Clear() {
    bytes.Clear();
    held.reset();
  }
  void Swap(HeldMessage* other) {
    bytes.Swap(&other->bytes);
    held.swap(other->held);
  }
};

// Up to two messages on their way.
class MessageQueue {
 public:
  bool empty() const { return count_ == 0; }
  bool full() const { return count_ == messages_.size(); }
  bool single() const { return count_ == 1; }
  const HeldMessage& front() const { return messages_[0]; }
  void Push(HeldMessage* message) { messages_[count_++].Swap(message); }
  // Takes the first one out. It counts as held for as long as `message` does.
  void PopInto(HeldMessage* message) {
    message->Swap(&messages_[0]);
    messages_[0].Clear();
    messages_[0].Swap(&messages_[1]);
    --count_;
  }
  void Clear() {
    for (HeldMessage& message : messages_) {
      message.Clear();
    }
    count_ = 0;
  }

 private:
  std::array<HeldMessage, 2> messages_;
  size_t count_ = 0;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_HELD_BYTES_H_
