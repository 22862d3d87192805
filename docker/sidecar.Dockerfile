# The sidecar, from the same folder that the lab builds its disk from: docker/sidecar.
#   docker build -f docker/sidecar.Dockerfile -t desktopstream/sidecar .
# BUILD and BASE must be of one Debian release: trixie's GStreamer and PipeWire are what it links.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim

FROM ${BUILD} AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        pkg-config clang libclang-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libpipewire-0.3-dev \
        libgbm-dev libdrm-dev libwayland-dev libegl-dev libgles-dev && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p sidecar && \
    install -D -t /out target/release/sidecar

FROM ${BASE}
COPY docker/sidecar/packages docker/common/finish.sh /tmp/image/
RUN apt-get update && \
    sed 's/#.*//' /tmp/image/packages | xargs apt-get install -y --no-install-recommends && \
    sh /tmp/image/finish.sh / && rm -rf /tmp/image
COPY docker/common/root/ /
COPY --from=build /out/sidecar /usr/local/bin/sidecar
# finish.sh wrote it: looking at each plugin anew takes long, and its user may write nothing.
ENV GST_REGISTRY=/usr/share/desktopstream/gstreamer-registry.bin GST_REGISTRY_UPDATE=no
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/sidecar"]
CMD ["--help"]
