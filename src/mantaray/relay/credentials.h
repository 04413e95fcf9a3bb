// TLS as Ray configures it: one certificate, key and authority for both sides, and clients must show a certificate too.

#ifndef MANTARAY_RELAY_CREDENTIALS_H_
#define MANTARAY_RELAY_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "mantaray/relay/options.h"

namespace mantaray::relay {

struct Credentials {
  std::shared_ptr<grpc::ServerCredentials> server;
  std::shared_ptr<grpc::ChannelCredentials> channel;
  std::string error;  // set instead, when a file cannot be read
};

// Where TLS is not used: neither encrypted nor authenticated.
Credentials MakeCredentials(const TlsFiles& files);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_CREDENTIALS_H_
