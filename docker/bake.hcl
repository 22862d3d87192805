# All images: docker buildx bake -f docker/bake.hcl, from the repository's root. ./x images does so on the test engine,
# with bases and programs that it made itself.
#   TAG=0.2.0 docker buildx bake -f docker/bake.hcl --push
#   docker buildx bake -f docker/bake.hcl --set '*.platform=linux/amd64,linux/arm64' sidecar

variable "REGISTRY" { default = "desktopstream" }
variable "TAG" { default = "latest" }
# compiled: in the Dockerfiles. prebuilt: taken from the folder PROGRAMS_FOLDER.
variable "PROGRAMS" { default = "compiled" }
variable "PROGRAMS_FOLDER" { default = "target/release" }
variable "BUILD" { default = "rust:1.95-trixie" }
# What all images are made on; each can have one of its own.
variable "BASE" { default = "debian:trixie-slim" }
variable "BASE_OPERATOR" { default = "" }
variable "BASE_SIDECAR" { default = "" }
variable "BASE_HOST_AGENT" { default = "" }
variable "BASE_DESKTOP_GNOME" { default = "" }
variable "BASE_DESKTOP_SWAY" { default = "" }
variable "BASE_DESKTOP_PATTERN" { default = "" }

function "base" {
  params = [own]
  result = own != "" ? own : BASE
}

group "default" {
  targets = ["operator", "sidecar", "host-agent", "desktop-pattern", "desktop-sway", "desktop-gnome"]
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
