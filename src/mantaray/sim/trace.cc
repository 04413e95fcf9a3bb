// See trace.h.

#include "mantaray/sim/trace.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace mantaray::sim {

void Trace::Note(int64_t at_ms, uint32_t process, std::string text) {
  entries_.push_back({at_ms, process, process, std::move(text)});
}

void Trace::Arrow(int64_t at_ms, uint32_t from, uint32_t to, std::string text) {
  entries_.push_back({at_ms, from, to, std::move(text)});
}

std::string Trace::ToText() const {
  std::string text;
  for (const Entry& entry : entries_) {
    absl::StrAppendFormat(&text, "%6d ms  ", entry.at_ms);
    if (entry.from == entry.to) {
      absl::StrAppend(&text, "P", entry.from, ": ", entry.text, "\n");
    } else {
      absl::StrAppend(&text, "P", entry.from, " -> P", entry.to, ": ", entry.text, "\n");
    }
  }
  return text;
}

std::string Trace::ToMermaid() const {
  std::string diagram = "sequenceDiagram\n";
  std::set<uint32_t> processes;
  for (const Entry& entry : entries_) processes.insert({entry.from, entry.to});
  for (const uint32_t process : processes) absl::StrAppend(&diagram, "    participant P", process, "\n");
  for (const Entry& entry : entries_) {
    // A semicolon would end the statement.
    const std::string text = absl::StrReplaceAll(entry.text, {{";", ","}, {"#", "no. "}});
    if (entry.from == entry.to) {
      absl::StrAppend(&diagram, "    Note over P", entry.from, ": ", text, "\n");
    } else {
      absl::StrAppend(&diagram, "    P", entry.from, "->>P", entry.to, ": ", text, "\n");
    }
  }
  return diagram;
}

}  // namespace mantaray::sim
