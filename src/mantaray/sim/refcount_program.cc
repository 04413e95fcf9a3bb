// See refcount_program.h.

#include "mantaray/sim/refcount_program.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "mantaray/sim/random.h"

namespace mantaray::sim {
namespace {

struct Weight {
  StepKind kind;
  uint32_t weight;
};

constexpr Weight kWeights[] = {
    {StepKind::kPut, 18}, {StepKind::kCall, 40}, {StepKind::kDrop, 24},   {StepKind::kLook, 8},
    {StepKind::kFree, 1}, {StepKind::kKill, 4},  {StepKind::kRebuild, 4}, {StepKind::kEvict, 1},
};

constexpr const char* kFlagNames[Script::kFlags] = {
    "looks into it",
    "keeps it",
    "keeps what it finds",
    "returns it",
    "returns what it finds",
    "returns what it held",
    "returns a new object with it",
    "passes it on",
    "may run again",
};

StepKind PickKind(Random* random) {
  uint32_t total = 0;
  for (const Weight& weight : kWeights) total += weight.weight;
  auto left = static_cast<uint32_t>(random->Below(total));
  for (const Weight& weight : kWeights) {
    if (left < weight.weight) return weight.kind;
    left -= weight.weight;
  }
  return StepKind::kPut;
}

Script RandomScript(Random* random) {
  Script script;
  script.look = random->Chance(500);
  script.keep = random->Chance(300);
  script.keep_inner = random->Chance(300);
  script.return_arg = random->Chance(150);
  script.return_inner = random->Chance(150);
  script.return_held = random->Chance(150);
  script.return_new = random->Chance(100);
  script.pass_on = random->Chance(400);
  script.retry = random->Chance(500);
  script.pick = static_cast<uint32_t>(random->Next());
  script.duration_ms = random->Chance(300) ? random->Between(0, 100) : random->Between(0, 5);
  return script;
}

FaultOptions RandomFaults(Random* random) {
  FaultOptions faults;
  if (random->Chance(700)) faults.slow_permille = static_cast<uint32_t>(random->Between(20, 400));
  if (random->Chance(500)) faults.double_permille = static_cast<uint32_t>(random->Between(20, 400));
  if (random->Chance(300)) faults.cut_permille = static_cast<uint32_t>(random->Between(50, 400));
  faults.slow_delay_ms = random->Between(20, 400);
  return faults;
}

}  // namespace

bool* Script::Flag(int number) {
  bool* const flags[kFlags] = {&look,        &keep,       &keep_inner, &return_arg, &return_inner,
                               &return_held, &return_new, &pass_on,    &retry};
  return flags[number];
}

std::string Script::ToString() const {
  Script copy = *this;
  std::string text;
  for (int i = 0; i < kFlags; ++i) {
    if (*copy.Flag(i)) absl::StrAppend(&text, text.empty() ? "" : ", ", kFlagNames[i]);
  }
  return text.empty() ? "does nothing with it" : text;
}

Program GenerateProgram(uint64_t seed, const ProgramOptions& options) {
  Random random(Mix(seed, 0x9e0));
  Program program;
  program.seed = seed;
  program.processes = options.processes;
  program.faults = RandomFaults(&random);
  // Some worlds are in a hurry, so that everything overlaps; in others messages mostly arrive between the steps.
  const int64_t pause_ms = random.Chance(500) ? 4 : 40;
  // Half of the worlds are without deaths: there, nothing may ever be lost.
  const bool deaths = random.Chance(500);
  int64_t at_ms = 0;
  for (uint32_t number = 0; number < options.steps; ++number) {
    Step step;
    step.kind = PickKind(&random);
    step.number = number;
    step.at_ms = at_ms += random.Between(0, pause_ms);
    step.process = static_cast<uint32_t>(random.Below(options.processes));
    step.pick = static_cast<uint32_t>(random.Next());
    step.other = static_cast<uint32_t>(random.Next());
    step.nest = random.Chance(500);
    if (step.kind == StepKind::kKill && !deaths) step.kind = StepKind::kDrop;
    if (step.kind == StepKind::kCall) {
      const auto depth = random.Between(1, 3);
      for (int64_t i = 0; i < depth; ++i) step.scripts.push_back(RandomScript(&random));
    }
    program.steps.push_back(std::move(step));
  }
  return program;
}

}  // namespace mantaray::sim
