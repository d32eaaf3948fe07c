# The server and the command line in one image of the binary, its libraries and nothing to build with.
#
#   docker build --tag tokenmeter:0.1.0 .
#   docker run --rm tokenmeter:0.1.0 version
#
# It listens on loopback unless it is told otherwise, as everywhere: k8s/ shows how to run it.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY clients clients
COPY migrations migrations
COPY proto proto
COPY services services
# No part of the binary, but Cargo wants every member of the workspace.
COPY tests tests
# What was fetched and built stays in caches of the builder, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --locked --package tokenmeter --bin tokenmeter \
    && cp target/release/tokenmeter /tokenmeter

FROM debian:12.11-slim
# The roots that certificates of PostgreSQL are checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /tokenmeter /usr/local/bin/tokenmeter
# A number, so that Kubernetes can see that it is not root; it owns no file of the image.
USER 65532:65532
WORKDIR /
# The service, and the metrics page where TOKENMETER_METRICS_LISTEN asks for it.
EXPOSE 50051 9464
# Kubernetes asks grpc.health.v1 itself and ignores a health check of the image.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/tokenmeter"]
CMD ["serve"]
