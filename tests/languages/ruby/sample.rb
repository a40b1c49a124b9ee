require 'set'

# A module.
module Shop
  class Cart < Base
    attr_reader :items

    # Makes one.
    #
    # Empty.
    def self.build
      new
    end

    private def secret
      1
    end

    class << self
      def all = []
    end
  end
end

=begin
Loose.
=end
def loose(x)
  x
end

describe 'x' do
  def helper
    1
  end
end

class Post < Record
  # The title.
  attr_accessor :title, :body
  delegate :email, to: :author
  scope :active, -> { where(active: true) }
  Size = Struct.new(:width, :height) do
    def area = width * height
  end
  NotFound = Class.new(StandardError)
  NORMALISE = ->(text) { text.strip }

  # Shouts.
  define_method(:shout) do
    name.upcase
  end
  define_method("#{level}_log") { |text| puts text }
  alias_method :yell, :shout
  alias to_s shout

  sig { params(other: Post).returns(T::Boolean) }
  def ==(other) = id == other.id
  def [](key); end

  def title=(value)
    @title = value
  end

  memoize def parent
    find(1)
  end

  def Post.all; end

  class << Draft
    def all; end
  end
end

def Post.first
end

namespace :db do
  desc 'Fills the tables'
  task :seed do
    1
  end

  task reset: :environment do |t, args|
    2
  end

  file 'db.sqlite' => ['schema.rb'] do
    3
  end
end
RSpec::Core::RakeTask.new(:spec) do |t|
  t.verbose = true
end

RSpec.describe Cart, type: :model do
  let(:line) { Line.new }
  let(:user) do
    User.new
  end
  subject { described_class.new }

  context 'when empty' do
    it "has no total" do
      expect(subject.total).to eq(0)
    end

    it { is_expected.to be_empty }
  end
  shared_examples('a list') { |x| it('lists') { x } }
end

get '/orders/:id' do
  Order.find(params[:id])
end

Given(/^a cart with (\d+) lines$/) do |count|
  count
end

task(:clean) { rm_rf 'tmp' }

test 'the truth' do
  assert true
end

items.each do |item|
  File.open('x') do |file|
    file << item
  end
end

text = <<~RUBY
  class NotCode
    def not_a_method; end
  end
RUBY
