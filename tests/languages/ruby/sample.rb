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
