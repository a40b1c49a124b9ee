#!/usr/bin/perl
# The carts of a shop.
package Shop::Cart;
use strict;
use Moose;
use constant RATE => 0.2;

our $VERSION = '1.0';

has 'items' => (is => 'ro', default => sub { [] });

=head2 build

Makes a cart.

=over 4

=item C<items>

=back

=cut

sub build {
    my ($class, %args) = @_;
    return bless { items => [], %args }, $class;
}

# Adds an item.
sub add($self, $item) { push @{$self->{items}}, $item; }

sub total;

around 'add' => sub {
    my ($next, $self) = @_;
    return $self->$next if /#\{/;
};
before add => sub { 1 };
after(add => sub { 2 });

my $sum = sub { my $total = 0; $total += $_ for @_; $total };
*plus = sub { goto &add };
*{"main::$VERSION"} = sub { 3 };

BEGIN { require Carp }

async sub save {
    await 1;
}

my %commands = (
    show => sub {
        print "show\n";
    },
    'clear all' => sub { 1 },
);

package Shop::Line {
    sub price { shift->{price} }
}

package Shop::Point;

sub x { $_[0]{x} }
sub Shop::Util::round { int shift }

class Pair 1.0 {
    field $left :param;
    method swap($other) { ($left, $other) }
}

package main;

get '/orders/:id' => sub {
    my $c = shift;
    $c->render(text => <<"END");
sub not_a_sub { }
END
};

app->helper(now => sub { time });

subtest 'adds' => sub {
    ok 1, 'one';
};

1;
__END__

=head1 NAME

sub not_code { }
