# The operator, which is the node-agent and `helm test`, too: one program and libc.
#   docker build -f docker/operator.Dockerfile -t desktopstream/operator:0.1.0 .
# BASE may be anything with glibc 2.41 or newer and CA certificates, with or without a shell.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim

FROM ${BUILD} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p operator && \
    install -D -t /out target/release/operator target/release/kubectl-desktopstream

# `docker build --target plugin -o . …` puts the kubectl plugin into this folder.
FROM scratch AS plugin
COPY --from=build /out/kubectl-desktopstream /

FROM ${BASE}
COPY --from=build /out/operator /usr/local/bin/operator
# A number, as runAsNonRoot can't judge names. The chart runs the node-agent as 0.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/operator"]
CMD ["--help"]
