#import <UIKit/UIKit.h>
#import "Cart.h"

NS_ASSUME_NONNULL_BEGIN

@class Order;

/// What ships.
@protocol Shipping <NSObject>
@required
/// Ships it.
- (void)ship:(NSString *)to;
@optional
@property (nonatomic, readonly) int count;
+ (instancetype)shipping;
@end

typedef NS_ENUM(NSInteger, CartKind) {
    CartKindSmall,
    CartKindLarge = 1
};

typedef NS_OPTIONS(NSUInteger, CartOptions) { CartOptionsNone = 0 };

typedef void (^CartBlock)(int count);

FOUNDATION_EXPORT NSString *const CartName;
extern void CartLog(int level) API_AVAILABLE(ios(9.0));

/**
 * A cart.
 */
@interface Cart<Item> : NSObject <Shipping, NSCopying>
{
    int _total;
}
@property (nonatomic, strong, nullable) NSString *name;
- (instancetype)initWithFrame:(CGRect)frame style:(int)style NS_DESIGNATED_INITIALIZER;
- (instancetype)init NS_UNAVAILABLE;
- (void)close;
@end

@interface Cart ()
@property (nonatomic, copy) CartBlock block;
@end

static int CartHalf(int total) {
    return total / 2;
}

@implementation Cart

@synthesize name = _name;

#pragma mark - Life

/// Makes a cart.
- (instancetype)initWithFrame:(CGRect)frame
                        style:(int)style {
    self = [super init];
    dispatch_async(queue, ^{
        [self close];
    });
    return self;
}

+ (instancetype)shipping
{
    return [[self alloc] init];
}

- (NSURLSessionTask *)GET:(NSString *)path :(int)retries {
    return nil;
}

- (void)close API_DEPRECATED("no") { }

#if TARGET_OS_IOS
- (NSString *)name { return _name; }
#endif

void CartReset(void) { }

@end

@implementation Cart (Extra)

- (void)extra {}

@end

void tests(void) {
    describe(@"a cart", ^{
        it(@"closes", ^{
            [cart close];
        });
    });
}

NS_ASSUME_NONNULL_END
