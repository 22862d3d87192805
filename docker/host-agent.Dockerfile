# Host-agent for a Linux host. On a Mac it runs natively.
#   docker build -f docker/host-agent.Dockerfile -t desktopstream/host-agent .
# BUILD and BASE must have the same Debian release, because the program links its GStreamer.
# PROGRAMS=prebuilt copies the program from --build-context programs=FOLDER instead of compiling it.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim
ARG PROGRAMS=compiled

FROM ${BUILD} AS compile
RUN apt-get update && apt-get install -y --no-install-recommends \
        pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p host-agent && \
    install -D -s -t /out target/release/host-agent

FROM scratch AS compiled
COPY --from=compile /out/ /

FROM scratch AS prebuilt
COPY --from=programs host-agent /

FROM ${PROGRAMS} AS programs-in

FROM ${BASE} AS image
RUN --mount=type=bind,source=docker,target=/mnt sh /mnt/common/install.sh host-agent
COPY --from=programs-in /host-agent /usr/local/bin/host-agent
ENV GST_REGISTRY=/usr/share/desktopstream/gstreamer-registry.bin GST_REGISTRY_UPDATE=no
USER 1000:1000
EXPOSE 15937
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/host-agent"]
CMD ["serve"]
