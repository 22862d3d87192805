# Desktop image from the folder docker/desktop-NAME, from which the lab builds its disk, too.
#   docker build -f docker/desktop.Dockerfile --build-arg DESKTOP=sway -t desktopstream/desktop-sway .
ARG BASE=debian:trixie-slim

FROM ${BASE} AS image
ARG DESKTOP=gnome
RUN --mount=type=bind,source=docker,target=/mnt sh /mnt/common/install.sh desktop-${DESKTOP}
USER 1000:1000
ENV XDG_RUNTIME_DIR=/run/desktop HOME=/home/desktop
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "/usr/local/bin/desktop"]
