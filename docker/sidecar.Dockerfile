# Sidecar image from the folder docker/sidecar, from which the lab builds its disk, too.
#   docker build -f docker/sidecar.Dockerfile -t desktopstream/sidecar .
# BUILD and BASE must have the same Debian release, because the program links its GStreamer and PipeWire.
# PROGRAMS=prebuilt copies the program from --build-context programs=FOLDER instead of compiling it.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim
ARG PROGRAMS=compiled

FROM ${BUILD} AS compile
RUN apt-get update && apt-get install -y --no-install-recommends \
        pkg-config clang libclang-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libpipewire-0.3-dev \
        libgbm-dev libdrm-dev libwayland-dev libegl-dev libgles-dev && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p sidecar && \
    install -D -s -t /out target/release/sidecar

FROM scratch AS compiled
COPY --from=compile /out/ /

FROM scratch AS prebuilt
COPY --from=programs sidecar /

FROM ${PROGRAMS} AS programs-in

FROM ${BASE} AS image
RUN --mount=type=bind,source=docker,target=/mnt sh /mnt/common/install.sh sidecar
COPY --from=programs-in /sidecar /usr/local/bin/sidecar
# finish.sh writes the registry: scanning the plugins is slow, and the user cannot write a registry.
ENV GST_REGISTRY=/usr/share/desktopstream/gstreamer-registry.bin GST_REGISTRY_UPDATE=no
USER 1000:1000
EXPOSE 8080 15939
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/sidecar"]
CMD ["--help"]
