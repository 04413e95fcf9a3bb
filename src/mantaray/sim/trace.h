// What happened in a simulated world, in order: for people to read as text or as a sequence diagram.

#ifndef MANTARAY_SIM_TRACE_H_
#define MANTARAY_SIM_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace mantaray::sim {

class Trace {
 public:
  // A process does something by itself.
  void Note(int64_t at_ms, uint32_t process, std::string text);
  // A message of one process arrives at another.
  void Arrow(int64_t at_ms, uint32_t from, uint32_t to, std::string text);

  bool empty() const { return entries_.empty(); }
  std::string ToText() const;
  // A Mermaid sequence diagram.
  std::string ToMermaid() const;

 private:
  struct Entry {
    int64_t at_ms;
    uint32_t from;
    uint32_t to;
    std::string text;
  };

  std::vector<Entry> entries_;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_TRACE_H_
