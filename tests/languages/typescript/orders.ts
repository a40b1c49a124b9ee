router.get<Request>('/orders', async (req, res) => {
  res.json(await list());
});

describe('cart', () => {
  it('adds', () => {
    expect(1).toBe(1);
  });
});
