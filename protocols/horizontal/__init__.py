"""One model from many holders of the same columns: sums that hide their parts, and the Flower apps that use them."""
