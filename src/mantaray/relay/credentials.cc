// See credentials.h.

#include "mantaray/relay/credentials.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace mantaray::relay {
namespace {

// Returns whether it could be read; an error is added to `error`.
bool ReadFile(const std::string& path, std::string* content, std::string* error) {
  std::ifstream file(path, std::ios::binary);
  content->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file.is_open() || content->empty()) {
    *error = "cannot read " + path + ": " + (file.is_open() ? "it is empty" : std::strerror(errno));
    return false;
  }
  return true;
}

}  // namespace

Credentials MakeCredentials(const TlsFiles& files) {
  Credentials made;
  if (!files.used) {
    made.server = grpc::InsecureServerCredentials();
    made.channel = grpc::InsecureChannelCredentials();
    return made;
  }
  std::string certificate;
  std::string key;
  std::string authority;
  if (!ReadFile(files.certificate, &certificate, &made.error) || !ReadFile(files.key, &key, &made.error) ||
      !ReadFile(files.authority, &authority, &made.error)) {
    return made;
  }
  grpc::SslServerCredentialsOptions server(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  server.pem_root_certs = authority;
  server.pem_key_cert_pairs.push_back({key, certificate});
  made.server = grpc::SslServerCredentials(server);
  grpc::SslCredentialsOptions channel;
  channel.pem_root_certs = authority;
  channel.pem_private_key = key;
  channel.pem_cert_chain = certificate;
  made.channel = grpc::SslCredentials(channel);
  return made;
}

}  // namespace mantaray::relay
