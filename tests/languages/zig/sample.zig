//! Shapes.
const std = @import("std");
const limit: usize = 8;

/// A point.
/// In two dimensions.
pub const Point = extern struct {
    x: f32,
    y: f32 = 0,

    const Axis = enum { x, y };

    /// Starts at `x`.
    pub fn init(x: f32) Point {
        return .{ .x = x };
    }

    test "starts" {
        try std.testing.expect(Point.init(1).x == 1);
    }
};

pub const Shape = union(enum) {
    dot: Point,
    none,

    pub inline fn area(self: Shape) f32 {
        return switch (self) {
            .dot => 0,
            .none => 0,
        };
    }
};

pub const ParseError = error{ Empty, TooLong };
const Handle = opaque {};

/// A list of any type.
pub fn List(comptime T: type) type {
    return struct {
        const Self = @This();
        items: []T,

        pub fn append(self: *Self, item: T) !void {
            self.items[0] = item;
        }
    };
}

pub fn Unsigned(comptime T: type) type {
    return if (T == i8) u8 else u16;
}

extern "c" fn puts(text: [*:0]const u8) c_int;

pub export fn main() void {
    const less = struct {
        fn lessThan(_: void, a: u8, b: u8) bool {
            return a < b;
        }
    }.lessThan;
    sort(less);
}

// Not a doc comment of the test.

test "adds\" twice" {
    main();
}

test List {
    _ = List(u8);
}

test {
    _ = Point;
}

fn @"while"() void {}
