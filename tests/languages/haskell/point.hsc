module Point where

#include "point.h"

import Foreign

-- | How many bytes.
size :: Int
size = #{size point}

limit :: Int
limit = (#const MAX_POINTS)

newtype Flag = Flag #type int

instance Storable Point where
  sizeOf _ = (#size point)
  peek p = do
    x <- #{peek point, x} p
    y <- (#peek point, y) p
    pure (Point x y)

move :: Point -> Point
move p = p
