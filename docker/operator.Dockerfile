# The operator: Docker mode, Kubernetes controllers, node-agent and `helm test` are one program and libc.
#   docker build -f docker/operator.Dockerfile -t desktopstream/operator:0.1.0 .
# BASE may be anything with glibc 2.41 or newer and CA certificates, with or without a shell.
# PROGRAMS=prebuilt takes the programs from the folder of --build-context programs=FOLDER instead of compiling them.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim
ARG PROGRAMS=compiled

FROM ${BUILD} AS compile
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p operator && \
    install -D -s -t /out target/release/operator target/release/kubectl-desktopstream

FROM scratch AS compiled
COPY --from=compile /out/ /

FROM scratch AS prebuilt
COPY --from=programs operator kubectl-desktopstream /

FROM ${PROGRAMS} AS programs-in

# `docker build --target plugin -o . …` puts the kubectl plugin into this folder.
FROM scratch AS plugin
COPY --from=programs-in /kubectl-desktopstream /

FROM ${BASE} AS image
COPY --from=programs-in /operator /usr/local/bin/operator
# A number, as runAsNonRoot can't judge names. The chart runs the node-agent as 0, compose the Docker mode.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/operator"]
CMD ["--help"]
