#=
Carts of a shop.
=#
module Shop

using Base: show
export Cart, total

"""
    Cart(items)

A cart with `items`.
"""
mutable struct Cart{T<:Real} <: AbstractCart
    items::Vector{T}
    "Makes an empty cart."
    Cart() = new{Int}([])
    function Cart{T}(items) where {T}
        new{T}(items)
    end
end

abstract type AbstractCart end
abstract type Priced{T} <: AbstractCart end
primitive type Byte8 8 end
@enum Color red green
const Prices = Dict{String,Float64}
Base.@kwdef struct Options
    tax::Float64 = 0.2
end

"Adds an item."
add!(cart::Cart, item) = push!(cart.items, item)

@doc raw"""
    total(cart)

Sums ``\sum``.
""" ->
function total(cart::Cart{T}; tax=0.2)::Float64 where {T}
    scale(price) = price * (1 + tax)
    function positive(price) price > 0 end
    sum(filter(cart.items) do item
        positive(item)
    end) |> scale
end

# Shows a cart.
Base.show(io::IO, cart::Cart) = print(io, "Cart")
function Base.length(cart::Cart)
    length(cart.items)
end
Base.:(==)(a::Cart, b::Cart) = a.items == b.items
+(a::Cart, b::Cart) = Cart()
Base.Vector{T}(cart::Cart) where T = T[item for item in cart.items]
(cart::Cart{T})(index) where {T} = cart.items[index]
∑(items)::Float64 where T = sum(items)

@inline function first(cart)
    cart.items[1]
end
@inline last(cart) = cart.items[end]

macro checked(expression)
    :($expression)
end

const square = x -> x^2
double = function (x)
    2x
end
function forward end

for name in (:red, :green)
    @eval $name() = 1
end

if VERSION > v"1.6"
    fallback() = begin
        local helper = y -> y
        helper(1)
    end
end

module Tests
@testset "carts" begin
    @test Cart()(1) == 1
    @testset "of $kind" for kind in (1, 2)
        @test kind > 0
    end
end
end

x, y = 1, 2
items[1] = 3
end # module Shop
