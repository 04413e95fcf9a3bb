// See probe.h.

#include "mantaray/relay/probe.h"

#include <chrono>
#include <utility>

#include "mantaray/syncer/wire.h"

namespace mantaray::relay {
namespace {

constexpr auto kTimeout = std::chrono::seconds(10);

}  // namespace

Probe::Probe(EventLoop* loop, Done done)
    : loop_(loop),
      done_(std::move(done)),
      started_(loop, this, &Probe::OnStart),
      metadata_(loop, this, &Probe::OnMetadata),
      finished_(loop, this, &Probe::OnFinish) {}

void Probe::Open(grpc::GenericStub* stub, EventLoop* loop, grpc::CompletionQueue* polled, const OwnedMetadata& metadata,
                 Done done) {
  auto* probe = new Probe(loop, std::move(done));
  for (const auto& [key, value] : metadata) {
    probe->context_.AddMetadata(key, value);
  }
  probe->context_.set_deadline(std::chrono::system_clock::now() + kTimeout);
  probe->stream_ = stub->PrepareCall(&probe->context_, std::string(syncer::kStartSyncMethod), polled);
  probe->BeginOne();
  probe->BeginOne();
  probe->stream_->StartCall(&probe->started_);
  probe->stream_->ReadInitialMetadata(&probe->metadata_);
}

void Probe::OnStart(bool /*ok*/) { EndOne(); }

void Probe::OnMetadata(bool ok) {
  if (ok) {
    for (const auto& [key, value] : context_.GetServerInitialMetadata()) {
      accepted_ = accepted_ || key == "node_id";
      answer_.emplace_back(ToString(key), ToString(value));
    }
  }
  // A stream that was taken is ended by us; one that was not has a status that says why.
  if (accepted_) {
    context_.TryCancel();
  }
  BeginOne();
  stream_->Finish(&status_, &finished_);
  EndOne();
}

void Probe::OnFinish(bool /*ok*/) {
  if (accepted_) {
    status_ = grpc::Status::OK;
  } else if (status_.ok()) {
    status_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the upstream ended the stream without taking it");
  }
  done_(status_, answer_);
  EndOne();
}

}  // namespace mantaray::relay
