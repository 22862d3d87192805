# Smallest desktop: a compositor that draws the numbered test pattern (tests/fixtures/pattern).
#   docker build -f docker/desktop-pattern.Dockerfile -t desktopstream/desktop-pattern .
# PROGRAMS=prebuilt copies the program from --build-context programs=FOLDER instead of compiling it.
ARG BUILD=rust:1.95-trixie
ARG BASE=debian:trixie-slim
ARG PROGRAMS=compiled

FROM ${BUILD} AS compile
RUN apt-get update && apt-get install -y --no-install-recommends \
        pkg-config libgbm-dev libdrm-dev libwayland-dev libegl-dev libgles-dev && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p pattern && \
    install -D -s -t /out target/release/pattern

FROM scratch AS compiled
COPY --from=compile /out/ /

FROM scratch AS prebuilt
COPY --from=programs pattern /

FROM ${PROGRAMS} AS programs-in

FROM ${BASE} AS image
RUN --mount=type=bind,source=docker,target=/mnt sh /mnt/common/install.sh desktop-pattern && \
    install -m 755 /mnt/desktop-pattern/desktop /usr/local/bin/desktop
COPY --from=programs-in /pattern /usr/local/bin/pattern
USER 1000:1000
ENV XDG_RUNTIME_DIR=/run/desktop HOME=/home/desktop
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "/usr/local/bin/desktop"]
