// See repeated_notices.h.

#include "mantaray/refcount/repeated_notices.h"

#include "absl/strings/str_cat.h"

namespace mantaray::refcount {

absl::string_view NameOf(Notice notice) {
  switch (notice) {
    case Notice::kRefRemoved:
      return "reference removed";
    case Notice::kPublisherFailed:
      return "publisher failed";
    case Notice::kSubscription:
      return "subscription";
  }
  return "unknown";
}

void RepeatedNotices::Remember(const ObjectId& object_id, const WorkerId& borrower, Notice first) {
  if (first_.insert_or_assign(Key(object_id, borrower), first).second) order_.emplace_back(object_id, borrower);
  while (order_.size() > kRemembered) {
    first_.erase(order_.front());
    order_.pop_front();
  }
}

std::optional<std::string> RepeatedNotices::Repeated(const ObjectId& object_id, const WorkerId& borrower, Notice again,
                                                     int64_t now_ms) {
  ++counts_[static_cast<size_t>(again)];
  if (logged_at_ms_ && now_ms - *logged_at_ms_ < kLogIntervalMs) {
    ++not_logged_;
    return std::nullopt;
  }
  const auto first = first_.find(Key(object_id, borrower));
  std::string line =
      absl::StrCat("Notice \"", NameOf(again), "\" came again for object ", object_id.Hex(), " and borrower ",
                   borrower.Hex(), "; first came ",
                   first == first_.end() ? "one no longer remembered" : absl::StrCat("\"", NameOf(first->second), "\""),
                   ". Nothing is left to clean up.");
  if (not_logged_ > 0) absl::StrAppend(&line, " (", not_logged_, " more since the last line.)");
  not_logged_ = 0;
  logged_at_ms_ = now_ms;
  return line;
}

}  // namespace mantaray::refcount
