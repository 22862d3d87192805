# Operator: controllers, node-agent, Docker mode and `helm test` are one program that links libc only.
#   docker build -f docker/operator.Dockerfile -t desktopstream/operator:0.1.0 .
# BASE needs glibc 2.41 or newer and CA certificates, but no shell.
# PROGRAMS=prebuilt copies the programs from --build-context programs=FOLDER instead of compiling them.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim
ARG PROGRAMS=compiled

FROM ${BUILD} AS compile
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p operator -p kubectl-desktopstream && \
    install -D -s -t /out target/release/operator target/release/kubectl-desktopstream

FROM scratch AS compiled
COPY --from=compile /out/ /

FROM scratch AS prebuilt
COPY --from=programs operator kubectl-desktopstream /

FROM ${PROGRAMS} AS programs-in

# `docker build --target plugin -o . …` writes the kubectl plugin to the current folder.
FROM scratch AS plugin
COPY --from=programs-in /kubectl-desktopstream /

FROM ${BASE} AS image
COPY --from=programs-in /operator /usr/local/bin/operator
# A number, because runAsNonRoot cannot verify a user name. The chart runs the node-agent, and Compose the Docker mode, as 0.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/operator"]
CMD ["--help"]
