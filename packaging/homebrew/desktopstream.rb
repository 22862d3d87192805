# host-agent and both forms of the tap, for Apple silicon. There is no public release yet: the URL does not exist, and the
# sha256 that `brew install` requires is missing. docs/macos.md describes the build.
class Desktopstream < Formula
  desc "Streams GPU desktops from Linux VMs to browsers"
  homepage "https://desktopstream.dev"
  url "https://desktopstream.dev/releases/desktopstream-0.1.0.tar.gz"
  version "0.1.0"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build
  depends_on arch: :arm64
  depends_on macos: :ventura

  def install
    system "cargo", "install", *std_cargo_args(path: "host-agent")
    # Stub libraries with virglrenderer's symbols, to link the tap with.
    system "cargo", "run", "--release", "--package", "check-macos", "--", "sdk", buildpath/"sdk"
    install_tap "libtap.dylib", linker: [
      "-weak_library", buildpath/"sdk/virglrenderer.tbd", "-install_name", "@rpath/libtap.dylib"
    ]
    install_tap "libvirglrenderer.1.dylib", features: ["--features", "drop-in"], linker: [
      "-reexport_library", buildpath/"sdk/virglrenderer-original.tbd",
      "-needed_library", buildpath/"sdk/virglrenderer-original.tbd",
      "-install_name", "@rpath/libvirglrenderer.1.dylib",
      "-compatibility_version", "1000.0.0", "-current_version", "1000.0.0"
    ]
  end

  # Builds one form of the tap and installs it in lib/desktopstream: lib may have the virglrenderer of another formula.
  def install_tap(name, linker:, features: [])
    arguments = linker.map { |argument| "-Clink-arg=-Wl,#{argument}" }
    system "cargo", "rustc", "--release", "--locked", "--package", "tap", "--lib", "--crate-type", "cdylib",
           *features, "--", *arguments
    (lib/"desktopstream").install "target/release/libtap.dylib" => name
  end

  def caveats
    <<~EOS
      Test this machine:            host-agent selftest
      Configure the operator's key: host-agent config init --public-key operator.pub
      Start at every login:         host-agent install
      Install the tap into UTM:     host-agent tap install --app UTM
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/host-agent --version")
    system bin/"host-agent", "config", "init", "--config", testpath/"host-agent.toml"
    check = "#{bin}/host-agent config check --config #{testpath}/host-agent.toml 2>&1"
    assert_match "no public key", shell_output(check, 1)
  end
end
