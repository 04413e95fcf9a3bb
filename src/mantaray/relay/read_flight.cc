// See read_flight.h.

#include "mantaray/relay/read_flight.h"

#include <utility>

#include "mantaray/relay/package_key.h"

namespace mantaray::relay {

ReadFlight::ReadFlight(std::vector<ReadPassenger*> passengers, Hold hold, std::function<void()> ended)
    : passengers_(std::move(passengers)),
      hold_(std::move(hold)),
      ended_(std::move(ended)),
      finished_(this, &ReadFlight::OnFinish) {}

ReadFlight* ReadFlight::Begin(grpc::GenericStub* stub, grpc::CompletionQueue* queue, const Question& question,
                              std::vector<ReadPassenger*> passengers, Hold hold, std::function<void()> ended) {
  auto* flight = new ReadFlight(std::move(passengers), std::move(hold), std::move(ended));
  for (const auto& [name, value] : question.metadata) {
    flight->context_.AddMetadata(name, value);
  }
  flight->context_.set_deadline(question.deadline);
  flight->reader_ = stub->PrepareUnaryCall(&flight->context_, question.method, question.request, queue);
  flight->BeginOne();
  flight->reader_->StartCall();
  flight->reader_->Finish(&flight->message_, &flight->status_, &flight->finished_);
  return flight;
}

void ReadFlight::Leave(ReadPassenger* passenger) {
  std::erase(passengers_, passenger);
  if (passengers_.empty()) {
    context_.TryCancel();
  }
}

void ReadFlight::OnFinish(bool /*ok*/) {
  ReadAnswer answer;
  answer.status = status_;
  if (status_.ok()) {
    const bool is_large = message_.Length() >= kMinPackageBytes;
    answer.message = hold_(is_large ? InLargePieces(std::exchange(message_, {})) : message_);
    message_.Clear();
  }
  answer.initial = CarriedOf(context_.GetServerInitialMetadata());
  answer.trailing = CarriedOf(context_.GetServerTrailingMetadata());
  // Landing may end a passenger's call, but no other's.
  for (ReadPassenger* passenger : std::exchange(passengers_, {})) {
    passenger->Land(answer);
  }
  EndOne();
}

void ReadFlight::LastEnded() { ended_(); }

}  // namespace mantaray::relay
