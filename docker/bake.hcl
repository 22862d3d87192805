# Builds all images: docker buildx bake -f docker/bake.hcl, from the repository's root. ./x images runs it on the test
# engine, with base images and programs that it built.
#   TAG=0.2.0 docker buildx bake -f docker/bake.hcl --push
#   docker buildx bake -f docker/bake.hcl --set '*.platform=linux/amd64,linux/arm64' sidecar

variable "REGISTRY" { default = "desktopstream" }
variable "TAG" { default = "latest" }
# compiled: programs are compiled in the Dockerfiles. prebuilt: programs are copied from PROGRAMS_FOLDER.
variable "PROGRAMS" { default = "compiled" }
variable "PROGRAMS_FOLDER" { default = "target/release" }
variable "BUILD" { default = "rust:1.95-trixie" }
# Base image of all images. BASE_NAME overrides it for one image.
variable "BASE" { default = "debian:trixie-slim" }
variable "BASE_OPERATOR" { default = "" }
variable "BASE_SIDECAR" { default = "" }
variable "BASE_HOST_AGENT" { default = "" }
variable "BASE_DESKTOP_GNOME" { default = "" }
variable "BASE_DESKTOP_SWAY" { default = "" }
variable "BASE_DESKTOP_PATTERN" { default = "" }
variable "BASE_DESKTOP_LABWC" { default = "" }
variable "BASE_DESKTOP_GNOME_FULL" { default = "" }
variable "BASE_DESKTOP_SWAY_FULL" { default = "" }

function "base" {
  params = [own]
  result = own != "" ? own : BASE
}

group "default" {
  targets = ["operator", "sidecar", "host-agent", "desktop-pattern", "desktop-sway", "desktop-gnome", "desktop-labwc"]
}

# Images with the programs of a daily desktop, 1 to 2 GB each.
group "full" {
  targets = ["desktop-sway-full", "desktop-gnome-full"]
}

target "_program" {
  context = "."
  target = "image"
  args = { BUILD = BUILD, PROGRAMS = PROGRAMS }
  contexts = PROGRAMS == "prebuilt" ? { programs = PROGRAMS_FOLDER } : {}
}

target "operator" {
  inherits = ["_program"]
  dockerfile = "docker/operator.Dockerfile"
  args = { BASE = base(BASE_OPERATOR) }
  tags = ["${REGISTRY}/operator:${TAG}"]
}

target "sidecar" {
  inherits = ["_program"]
  dockerfile = "docker/sidecar.Dockerfile"
  args = { BASE = base(BASE_SIDECAR) }
  tags = ["${REGISTRY}/sidecar:${TAG}"]
}

target "host-agent" {
  inherits = ["_program"]
  dockerfile = "docker/host-agent.Dockerfile"
  args = { BASE = base(BASE_HOST_AGENT) }
  tags = ["${REGISTRY}/host-agent:${TAG}"]
}

target "desktop-pattern" {
  inherits = ["_program"]
  dockerfile = "docker/desktop-pattern.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_PATTERN) }
  tags = ["${REGISTRY}/desktop-pattern:${TAG}"]
}

target "desktop-sway" {
  context = "."
  target = "image"
  dockerfile = "docker/desktop.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_SWAY), DESKTOP = "sway" }
  tags = ["${REGISTRY}/desktop-sway:${TAG}"]
}

target "desktop-gnome" {
  context = "."
  target = "image"
  dockerfile = "docker/desktop.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_GNOME), DESKTOP = "gnome" }
  tags = ["${REGISTRY}/desktop-gnome:${TAG}"]
}

target "desktop-labwc" {
  context = "."
  target = "image"
  dockerfile = "docker/desktop.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_LABWC), DESKTOP = "labwc" }
  tags = ["${REGISTRY}/desktop-labwc:${TAG}"]
}

target "desktop-sway-full" {
  context = "."
  target = "image"
  dockerfile = "docker/desktop.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_SWAY_FULL), DESKTOP = "sway-full" }
  tags = ["${REGISTRY}/desktop-sway-full:${TAG}"]
}

target "desktop-gnome-full" {
  context = "."
  target = "image"
  dockerfile = "docker/desktop.Dockerfile"
  args = { BASE = base(BASE_DESKTOP_GNOME_FULL), DESKTOP = "gnome-full" }
  tags = ["${REGISTRY}/desktop-gnome-full:${TAG}"]
}
