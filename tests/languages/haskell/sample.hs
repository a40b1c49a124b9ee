{-# LANGUAGE CPP, TypeFamilies #-}
-- | Points and trees.
module Data.Shape (area, (<+>)) where

import Data.List (sortOn)

-- | The area
-- of a shape.
area :: Shape -> Double
area Dot = 0
-- A circle.
area (Circle r) = go r
  where
    go :: Double -> Double
    go 0 = 0
    go x = x * x

{-# INLINE (<+>) #-}
(<+>) :: Int -> Int -> Int
a <+> b = a + b

x `plus` y = x + y

-- | Sorted.
sorted :: [Int] -> [Int]
sorted = sortOn negate

limit = 8

first, second :: Int
first = 1
second = 2

{-|
A shape.
-}
data Shape
  = Dot -- ^ no area
  | Circle { radius :: Double }
  deriving (Show)

newtype Parser a = Parser { runParser :: String -> Maybe a }
type Name = String -- ^ its name

type family Elem c

data Term where
  Lit :: Int -> Term

-- | Things that log.
class Monad m => MonadLog m where
  -- | Logs.
  logIt :: String -> m ()
  logIt _ = pure ()
  level :: m Int

instance Show a => Show (Tree a) where
  show Leaf = "leaf"
  show (Node a b) = "node"
  a == b = True

instance MonadLog IO

pattern Pair x y = (x, y)

foreign import ccall "math.h sin" c_sin :: Double -> Double

#ifdef DEBUG
debug :: Bool
debug = True
#endif

(f . g) x = f (g x)

parseName = called "a name" $ do
  c <- letter
  pure [c]

classify n
  | n < 0 = "negative"
  | otherwise = "other"

main :: IO ()
main = do
  let twice 0 = 0
      twice x = 2 * x
  print (twice 1)

prop_area = check area "1"

spec = describe "area" $ do
  it "is zero for dots" $ do
    area Dot `shouldBe` 0
