"""Rules for carts."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

CartInfo = provider(fields = ["items"])

def _cart_impl(ctx):
    """Write the items of a cart.

    Args:
      ctx: the context of the rule.
    """
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(out, "\n".join(ctx.attr.items))
    return [CartInfo(items = ctx.attr.items)]

cart = rule(
    implementation = _cart_impl,
    attrs = {"items": attr.string_list()},
)

def carts(names, **kwargs):
    for name in names:
        cart(
            name = name,
            **kwargs
        )

# The totals of carts.
cc_library(
    name = "total",
    srcs = ["total.cc"],
    hdrs = ["total.h"],
    deps = select({
        "//conditions:default": [],
    }),
)

[
    cc_test(
        name = "total_test",
        srcs = ["total_test.cc"],
    )
    for _ in range(1)
]

native.filegroup(name = 'all', srcs = glob(["**"]))

maven.install(
    artifacts = ["org.example:cart:1.0"],
    name = "maven",  # of the shop
)

package(default_visibility = ["//visibility:public"])
