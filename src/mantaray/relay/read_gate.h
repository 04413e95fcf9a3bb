// When the reads of many clients that ask the GCS for the same go to it as one.
//
// Every process of a cluster reads the same tables: of nodes, of jobs, of settings, of exported functions. Thousands of
// processes that start together, or look again together, cost the GCS thousands of answers with the same bytes.
//
// Every key has a bucket of `burst` tokens, into which one falls each `every_ms`. A flight takes a token, and carries
// all reads of its key that wait at that moment. So reads that come seldom leave at once, and when there are many, the
// upstream gets one read of a key each `every_ms`, and no read waits here for longer than that. While the upstream
// answers quickly, tokens fall quickly: it can bear the reads, and nobody waits for long.
//
// Nothing is kept for later, and no answer is older than its question: a read only joins a flight that has not left
// yet. What the upstream answers was true while the read was under way, as without a relay.
//
// All of it on one thread.

#ifndef MANTARAY_RELAY_READ_GATE_H_
#define MANTARAY_RELAY_READ_GATE_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace mantaray::relay {

// `Call` is a pointer by which the gate knows a read.
template <typename Call>
class ReadGate {
 public:
  using Flight = std::vector<Call>;

  // Args: `longest_ms`: the longest time, and the first, between two tokens; at least 1.
  ReadGate(int64_t longest_ms, int64_t burst) : longest_ms_(longest_ms), every_ms_(longest_ms), burst_(burst) {}

  // A flight has landed after so many milliseconds.
  void Landed(double took_ms) {
    took_ms_ += (took_ms - took_ms_) / kFlights;
    every_ms_ = std::clamp<int64_t>(std::llround(kTimesAsLong * took_ms_), 1, longest_ms_);
  }

  // A read comes, and waits for Due. `key`: the same for those who would get the same answer.
  void Join(const std::string& key, Call call, int64_t now_ms) {
    ForgetRested(now_ms);
    Bucket& bucket = buckets_.try_emplace(key).first->second;
    if (bucket.waiting.empty()) {
      bucket.empty_ms = std::max(bucket.empty_ms, FullAt(now_ms));
      bucket.token_ms = bucket.empty_ms + every_ms_;
      bucket.due_ms = std::max(bucket.token_ms, now_ms);
      due_.emplace(bucket.due_ms, key);
    }
    bucket.waiting.push_back(call);
    keys_[call] = key;
  }

  // When the next flight may leave; nothing if no read waits.
  std::optional<int64_t> NextMs() const {
    return due_.empty() ? std::nullopt : std::optional<int64_t>(due_.begin()->first);
  }

  // Takes out the reads that may leave now. Those of one flight ask for the same.
  std::vector<Flight> Due(int64_t now_ms) {
    std::vector<Flight> flights;
    while (!due_.empty() && due_.begin()->first <= now_ms) {
      Bucket& bucket = buckets_[due_.begin()->second];
      due_.erase(due_.begin());
      bucket.empty_ms = bucket.token_ms;
      for (const Call call : bucket.waiting) {
        keys_.erase(call);
      }
      flights.push_back(std::exchange(bucket.waiting, {}));
    }
    return flights;
  }

  // The read is over. Nothing for one that does not wait here.
  void Leave(Call call) {
    const auto known = keys_.find(call);
    if (known == keys_.end()) {
      return;
    }
    Bucket& bucket = buckets_[known->second];
    std::erase(bucket.waiting, call);
    if (bucket.waiting.empty()) {
      due_.erase({bucket.due_ms, known->second});
    }
    keys_.erase(known);
  }

  // Keys that the gate knows at the moment.
  size_t keys() const { return buckets_.size(); }

 private:
  struct Bucket {
    // When the bucket was or will be empty, if nobody takes a token any more. Says how many tokens there are now.
    int64_t empty_ms = INT64_MIN / 2;
    int64_t token_ms = 0;  // when the token of those that wait falls, or has fallen
    int64_t due_ms = 0;    // when they may leave
    Flight waiting;
  };
  // Tokens fall at this many times the time that flights take, on average over about so many of them.
  static constexpr double kTimesAsLong = 10;
  static constexpr double kFlights = 16;
  // When there are so many keys, those that have rested are forgotten.
  static constexpr size_t kManyKeys = 1'000;

  int64_t FullAt(int64_t now_ms) const { return now_ms - burst_ * every_ms_; }

  // A key whose bucket is full is as good as one that never came.
  void ForgetRested(int64_t now_ms) {
    if (buckets_.size() < kManyKeys || now_ms < forget_ms_) {
      return;
    }
    std::erase_if(buckets_, [full_ms = FullAt(now_ms)](const auto& entry) {
      return entry.second.waiting.empty() && entry.second.empty_ms <= full_ms;
    });
    forget_ms_ = now_ms + burst_ * every_ms_;
  }

  const int64_t longest_ms_;
  int64_t every_ms_;
  const int64_t burst_;
  double took_ms_ = 0;
  std::map<std::string, Bucket> buckets_;
  std::map<Call, std::string> keys_;               // of the reads that wait
  std::set<std::pair<int64_t, std::string>> due_;  // when each key with waiting reads has its next token
  int64_t forget_ms_ = 0;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_READ_GATE_H_
