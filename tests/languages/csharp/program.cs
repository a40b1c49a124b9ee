var app = WebApplication.Create(args);

// Lists the orders.
app.MapGet("/orders", async (Db db) =>
{
    return await db.List();
});

app.MapDelete("/orders/{id}", Remove);

Test("adds", delegate { Assert.Equal(1, Add(0)); });

int Add(int a) { return a + 1; }

app.Run();
