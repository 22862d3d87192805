# The formula without Homebrew: its words as stubs that write down what they are told. `ruby evaluate.rb FORMULA` prints
# its fields and the commands that it would run, as JSON; tests compare them with the repository.
require "json"
require "pathname"

TOLD = { "depends_on" => [], "system" => [], "shell_output" => [], "installed" => [] }

# A path, as Homebrew has them.
class Place < Pathname
  def /(other) = Place.new(File.join(to_s, other.to_s))

  def install(what) = TOLD["installed"] << what.to_a.flatten.map(&:to_s).unshift(to_s)
end

class Formula
  FIELDS = %w[desc homepage url version license sha256].freeze

  class << self
    attr_reader :tested

    FIELDS.each do |field|
      define_method(field) { |value = nil| value.nil? ? TOLD[field] : TOLD[field] = value }
    end

    def depends_on(what) = TOLD["depends_on"] << what.to_s

    def test(&block) = @tested = block

    def inherited(formula)
      super
      TOLD["class"] = formula.name
      @formula = formula
    end

    attr_reader :formula
  end

  %w[bin lib buildpath testpath].each do |name|
    define_method(name) { Place.new("/#{name}") }
  end

  def version = TOLD["version"]

  def std_cargo_args(path: ".") = ["--locked", "--root", "/prefix", "--path", path]

  def system(*words) = TOLD["system"] << words.flatten.map(&:to_s)

  def shell_output(command, status = 0)
    TOLD["shell_output"] << [command, status]
    "#{version} no key"
  end

  def assert_match(wanted, text)
    raise "#{wanted} is not in #{text}" unless text.match?(wanted)
  end
end

# Some of what Homebrew asks of every formula by these names: one of them as a method of ours would break it.
TAKEN = %i[tap name path prefix opt_prefix keg_only? stable head resources deps conflicts patch fetch build options logs
           outdated? linked? pinned? service launchd_service_path run post_install ruby_binary inreplace mkdir].freeze

load ARGV.fetch(0)
own = Formula.formula.instance_methods(false)
abort "Homebrew's own: #{(own & TAKEN).join(", ")}" unless (own & TAKEN).empty?
formula = Formula.formula.new
formula.install
TOLD["caveats"] = formula.caveats
formula.instance_eval(&Formula.formula.tested)
puts JSON.pretty_generate(TOLD)
