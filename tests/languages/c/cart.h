#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

/// A cart, in a header that may be C.
@interface Cart : NSObject

@property (nonatomic, assign) NSInteger count;

/// Adds.
- (void)addItem:(NSString *)item count:(NSInteger)count;

@end

NS_ASSUME_NONNULL_END
