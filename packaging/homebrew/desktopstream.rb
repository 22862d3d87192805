# host-agent, and the tap in its two forms, for Apple silicon. There is no public release yet, so the archive's address
# is a wish and its sha256 is missing: `brew install` asks for both. What is built and how is what docs/macos.md says.
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
    # A virglrenderer that has nothing but names: what the tap is linked against.
    system "cargo", "run", "--release", "--package", "check-macos", "--", "sdk", buildpath/"sdk"
    insert ["-weak_library", buildpath/"sdk/virglrenderer.tbd", "-install_name", "@rpath/libtap.dylib"],
           [], "libtap.dylib"
    insert ["-reexport_library", buildpath/"sdk/virglrenderer-original.tbd",
            "-needed_library", buildpath/"sdk/virglrenderer-original.tbd",
            "-install_name", "@rpath/libvirglrenderer.1.dylib",
            "-compatibility_version", "1000.0.0", "-current_version", "1000.0.0"],
           ["--features", "drop-in"], "libvirglrenderer.1.dylib"
  end

  # One form of the tap. Not in lib itself, where another formula's virglrenderer is.
  def insert(linker, features, name)
    arguments = linker.map { |word| "-Clink-arg=-Wl,#{word}" }
    system "cargo", "rustc", "--release", "--locked", "--package", "tap", "--lib", "--crate-type", "cdylib",
           *features, "--", *arguments
    (lib/"desktopstream").install "target/release/libtap.dylib" => name
  end

  def caveats
    <<~EOS
      First of all:           host-agent selftest
      With the operator's key: host-agent config init --public-key operator.pub
      At login, from then on: host-agent install
      The tap into UTM:       host-agent tap install --app UTM
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/host-agent --version")
    system bin/"host-agent", "config", "init", "--config", testpath/"host-agent.toml"
    assert_match "no key", shell_output("#{bin}/host-agent config check --config #{testpath}/host-agent.toml 2>&1", 1)
  end
end
