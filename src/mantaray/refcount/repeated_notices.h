// Repeated notices, whose clean-up was done already. All of them are counted, and they are logged at a bounded rate.
//
// A bounded number of recent clean-ups is remembered, so that the log can name the notice that came first. Not
// thread-safe.

#ifndef MANTARAY_REFCOUNT_REPEATED_NOTICES_H_
#define MANTARAY_REFCOUNT_REPEATED_NOTICES_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/ids.h"

namespace mantaray::refcount {

enum class Notice : uint8_t { kRefRemoved, kPublisherFailed, kSubscription };

absl::string_view NameOf(Notice notice);

class RepeatedNotices {
 public:
  static constexpr int64_t kLogIntervalMs = 5000;
  static constexpr size_t kRemembered = 4096;

  // Remembers that a borrower was cleaned up because of this notice.
  void Remember(const ObjectId& object_id, const WorkerId& borrower, Notice first);

  // Counts a notice about a borrower that is gone or unknown. Returns the line to log, or nothing if a line was logged
  // less than kLogIntervalMs ago. The next line then says how many were left out.
  std::optional<std::string> Repeated(const ObjectId& object_id, const WorkerId& borrower, Notice again,
                                      int64_t now_ms);

  uint64_t count(Notice notice) const { return counts_[static_cast<size_t>(notice)]; }

 private:
  using Key = std::pair<ObjectId, WorkerId>;

  absl::flat_hash_map<Key, Notice> first_;
  std::deque<Key> order_;
  uint64_t counts_[3] = {};
  uint64_t not_logged_ = 0;
  std::optional<int64_t> logged_at_ms_;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REPEATED_NOTICES_H_
