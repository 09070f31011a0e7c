// The cases of main.cpp, each of which compares an operator with a plain loop.
#pragma once

void direct_convolutions(bool bfloat);
void winograd_convolutions(bool bfloat);
void weight_gradients();
void depthwise_convolutions(bool bfloat);
void pools();
void pools_with_taps(bool bfloat);
void batch_norms(bool bfloat);
void flow();
