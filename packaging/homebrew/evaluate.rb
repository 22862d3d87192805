# Evaluates a formula without Homebrew: its methods are stubs that record their arguments. `ruby evaluate.rb FORMULA` prints
# the formula's fields and the commands that it would run as JSON, which tests compare with the repository.
require "json"
require "pathname"

RECORD = { "depends_on" => [], "system" => [], "shell_output" => [], "installed" => [] }

# Homebrew's extension of Pathname.
class FormulaPath < Pathname
  def /(other) = FormulaPath.new(File.join(to_s, other.to_s))

  def install(files) = RECORD["installed"] << files.to_a.flatten.map(&:to_s).unshift(to_s)
end

class Formula
  FIELDS = %w[desc homepage url version license sha256].freeze

  class << self
    attr_reader :test_block

    FIELDS.each do |field|
      define_method(field) { |value = nil| value.nil? ? RECORD[field] : RECORD[field] = value }
    end

    def depends_on(dependency) = RECORD["depends_on"] << dependency.to_s

    def test(&block) = @test_block = block

    def inherited(formula)
      super
      RECORD["class"] = formula.name
      @formula = formula
    end

    attr_reader :formula
  end

  %w[bin lib buildpath testpath].each do |name|
    define_method(name) { FormulaPath.new("/#{name}") }
  end

  def version = RECORD["version"]

  def std_cargo_args(path: ".") = ["--locked", "--root", "/prefix", "--path", path]

  def system(*arguments) = RECORD["system"] << arguments.flatten.map(&:to_s)

  def shell_output(command, status = 0)
    RECORD["shell_output"] << [command, status]
    "#{version} no public key"
  end

  def assert_match(pattern, text)
    raise "#{text} does not match #{pattern}" unless text.match?(pattern)
  end
end

# Methods that Homebrew calls on every formula. A formula that defines one of these names breaks Homebrew.
RESERVED = %i[tap name path prefix opt_prefix keg_only? stable head resources deps conflicts patch fetch build options logs
              outdated? linked? pinned? service launchd_service_path run post_install ruby_binary inreplace mkdir].freeze

load ARGV.fetch(0)
defined_methods = Formula.formula.instance_methods(false)
abort "reserved by Homebrew: #{(defined_methods & RESERVED).join(", ")}" unless (defined_methods & RESERVED).empty?
formula = Formula.formula.new
formula.install
RECORD["caveats"] = formula.caveats
formula.instance_eval(&Formula.formula.test_block)
puts JSON.pretty_generate(RECORD)
