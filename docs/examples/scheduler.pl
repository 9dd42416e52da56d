#!/usr/bin/env perl
# A scheduler in Perl: the least loaded engine of either side at once, and all hits on the side
# whose node has less to read. Lines of JSON in and out, as docs/protocol.md describes them.
use strict;
use warnings;
use JSON::PP;

$| = 1;    # each answer leaves at once
my (%cluster, %reported, %promised, %placed, $seq);

# What was promised after the decision that the last report had seen is on top of what it said.
sub load {
    my ($name, $what) = @_;
    my $last = $reported{$name} // { seen => 0 };
    my $load = $last->{$what} // 0;
    $load += $_->{tokens} for grep { $_->{seq} > $last->{seen} } values %{ $promised{$name} };
    return $load;
}

sub least_loaded {
    my ($side) = @_;
    my ($best, $least);
    for my $engine (grep { $_->{side} eq $side } @{ $cluster{engines} }) {
        my $load = load($engine->{name}, 'tokens');
        ($best, $least) = ($engine, $load) if !defined $least || $load < $least;
    }
    return $best;
}

sub promise {
    my ($name, $id, $tokens) = @_;
    $promised{$name}{$id} = { seq => $seq, tokens => $tokens };
    push @{ $placed{$id} }, $name;
}

sub arrived {
    my ($request) = @_;
    my ($pe, $de) = (least_loaded('pe'), least_loaded('de'));
    my $pe_reads = load($pe->{node}, 'read_queue_tokens');
    my $de_reads = load($de->{node}, 'read_queue_tokens');
    my ($side, $node) = $pe_reads <= $de_reads ? ('pe', $pe->{node}) : ('de', $de->{node});
    my $blocks = $request->{hit_tokens} / $cluster{block_tokens};
    my $id = $request->{id};
    $seq++;
    promise($pe->{name}, $id, $request->{prompt_tokens});
    promise($de->{name}, $id, $request->{prompt_tokens} + $request->{generate_tokens});
    promise($node, $id, $request->{hit_tokens});
    my @reads = $blocks ? { side => $side, first => 0, count => $blocks } : ();
    return { seq => $seq, request_id => $id, pe => $pe->{name}, de => $de->{name},
             reads => \@reads };
}

while (my $line = <STDIN>) {
    my $said = decode_json($line);
    my $answer = { type => 'decided', decisions => [] };
    if ($said->{type} eq 'hello') {
        die "I speak version 1, not $said->{version}\n" if $said->{version} != 1;
        (%reported, %promised, %placed) = ();
        %cluster = %{ $said->{cluster} };
        $seq = 0;
        my $traits = { layerwise => JSON::PP::true, quota_s => $said->{knobs}{quota_s} };
        $answer = { type => 'ready', version => 1, traits => $traits };
    } elsif ($said->{type} eq 'arrived') {
        $answer->{decisions} = [ arrived($said->{request}) ];
    } elsif ($said->{type} eq 'fetch') {
        # A report that is not there is unchanged.
        $reported{ $_->{engine} } = $_ for @{ $said->{engines} };
        $reported{ $_->{node} } = $_ for @{ $said->{nodes} };
    } elsif ($said->{type} eq 'ended') {
        my $names = delete $placed{ $said->{request_id} } // [];
        delete $promised{$_}{ $said->{request_id} } for @$names;
    }
    print encode_json($answer), "\n";
}
